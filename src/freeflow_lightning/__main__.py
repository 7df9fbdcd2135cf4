"""`python -m freeflow_lightning VERB` is the command `freeflow VERB`."""

from freeflow_lightning.commands.main import main

if __name__ == "__main__":
    main()
