"""A passage in each language that a model speaks: longer than the longest segment, and without numbers or names."""

PASSAGES = {
    "en": (
        "Nobody had lived in the old house for years. Then one evening in autumn a light was seen in the upper window, "
        "and the children, who had stopped on their way home from school, looked at each other and wondered who it "
        "could be, because the door was still locked and no smoke came from the chimney over the garden."
    ),
    "fr": (
        "La vieille maison se trouvait au bout du chemin, et personne n'y habitait depuis des années, jusqu'à ce qu'un "
        "soir d'automne on aperçoive une lumière à la fenêtre du haut, et que les enfants, qui s'étaient arrêtés en "
        "rentrant de l'école, se regardent en se demandant qui cela pouvait bien être, puisque la porte était toujours "
        "fermée et qu'aucune fumée ne sortait de la cheminée."
    ),
    "de": (
        "Das alte Haus stand am Ende des Weges, und seit Jahren hatte niemand mehr darin gewohnt, bis man an einem Abend "
        "im Herbst ein Licht im oberen Fenster sah, und die Kinder, die auf dem Heimweg von der Schule stehen geblieben "
        "waren, sich anschauten und fragten, wer das wohl sein mochte, denn die Tür war noch immer verschlossen, und aus "
        "dem Schornstein stieg kein Rauch."
    ),
    "es": (
        "La casa vieja estaba al final del camino, y hacía años que nadie vivía en ella, hasta que una tarde de otoño se "
        "vio una luz en la ventana de arriba, y los niños, que se habían detenido al volver de la escuela, se miraron y "
        "se preguntaron quién podría ser, porque la puerta seguía cerrada con llave y de la chimenea, que se inclinaba "
        "sobre el jardín, no salía humo."
    ),
    "it": (
        "La vecchia casa stava in fondo al sentiero, e da anni non ci abitava più nessuno, finché una sera d'autunno si "
        "vide una luce alla finestra di sopra, e i bambini, che si erano fermati tornando da scuola, si guardarono e si "
        "chiesero chi potesse essere, perché la porta era ancora chiusa a chiave e dal camino, che pendeva sul giardino, "
        "non usciva fumo."
    ),
    "ko": (
        "오래된 집은 골목 끝에 서 있었고 여러 해 동안 아무도 살지 않았는데, 어느 가을 저녁 위층 창문에 불빛이 보이자 "
        "학교에서 돌아오던 아이들은 걸음을 멈추고 서로를 바라보며 도대체 누구일까 하고 궁금해했으니, 문은 여전히 잠겨 "
        "있었고 마당 위로 기울어진 굴뚝에서는 연기 한 줄기도 피어오르지 않았으며, 바람에 흔들리는 나뭇잎 소리 말고는 "
        "아무 소리도 들리지 않았고, 저녁 종소리가 들판 너머로 천천히 퍼져 나가는 동안에도 불빛은 그대로 켜져 있어서, "
        "아이들은 집으로 돌아가는 것도 잊은 채 어두워질 때까지 담장 옆에 가만히 서 있었다."
    ),
    "hi": (
        "पुराना मकान गली के आख़िर में खड़ा था और बरसों से उसमें कोई नहीं रहता था, जब तक कि पतझड़ की एक शाम ऊपर की "
        "खिड़की में रोशनी दिखाई नहीं दी, और स्कूल से घर लौटते हुए बच्चे रुककर एक दूसरे को देखने लगे और सोचने लगे कि "
        "आख़िर यह कौन हो सकता है, क्योंकि दरवाज़ा अब भी बंद था और बग़ीचे के ऊपर झुकी हुई चिमनी से ज़रा भी धुआँ नहीं "
        "निकल रहा था।"
    ),
    "zh": (
        "那座老房子立在小路的尽头，多年来一直没有人住，直到一个秋天的傍晚，楼上的窗户里忽然亮起了灯光，放学回家的孩子们停下脚步，"
        "你看看我，我看看你，都在想那到底会是谁，因为大门依然锁着，倾斜在花园上方的烟囱里也没有冒出一丝烟，四周安静得只听见风吹动"
        "树叶的声音，远处的钟声慢慢地传过田野，天色一点一点暗了下来，可是那盏灯还一直亮着，孩子们忘了回家，就这样静静地站在墙边，"
        "一直看到星星出来，谁也不愿意先开口说话，仿佛只要一出声，那点灯光就会熄灭，老房子又会变回原来那个没有人记得的老房子，"
        "而他们也就再也不会知道，那天晚上究竟是谁点亮了那盏灯，又在等着什么人回来。"
    ),
}
