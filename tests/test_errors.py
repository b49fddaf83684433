import inspect

from orpheus import errors


def test_every_error_has_openais_four_keys_and_is_in_the_drawing() -> None:
    drawing = errors.__doc__ or ""
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.OrpheusError):
            assert name in drawing
            assert set(kind("x").body()["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


def test_the_drawing_shows_the_right_status_and_exit_code() -> None:
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├", " ").replace("└", " ").replace("─", " ").replace("│", " ").split()
        kind = getattr(errors, words[0], None) if words else None
        if kind and len(words) > 1 and words[1].isdigit():
            assert kind.status == int(words[1])
        if kind and len(words) > 2 and words[1] == "exit":
            assert kind.exit_code == int(words[2])
