"""What every training shares: LightningCLI, task base, callbacks, step data, sizes, measured numbers."""
