"""Deploy both tiers to Modal: `python deploy_orpheus_modal.py --help`. Needs `modal setup` once."""

from orpheus.deploy.command import main

if __name__ == "__main__":
    main()
