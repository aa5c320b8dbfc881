package stockkvm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Shell boots a host with a shell on this terminal and returns when it ends.
func Shell(ctx context.Context, cfg HostConfig) error {
	qemu, err := qemuBinary()
	if err != nil {
		return err
	}
	cfg.Append = append(cfg.Append, "stockkvm.shell")
	cmd := exec.CommandContext(ctx, qemu, append(cfg.machineArgs(),
		"-append", cfg.commandLine(),
		"-display", "none",
		"-serial", "mon:stdio")...)
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("QEMU: %w: %s", err, complaints(stderr.String()))
	}
	return nil
}
