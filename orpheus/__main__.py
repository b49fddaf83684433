from orpheus.cli import main

main()
