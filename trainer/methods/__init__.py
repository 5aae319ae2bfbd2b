"""Self-supervised methods, one file each; see ``trainer.method`` for what one is."""
