"""The command `taskq`. Only what a command needs is imported, when it is called."""
