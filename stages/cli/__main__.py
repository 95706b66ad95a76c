"""`python -m scoreonce.stages.cli`, for launchers of several processes."""

from scoreonce.stages.cli.command_line import main

if __name__ == "__main__":
    main()
