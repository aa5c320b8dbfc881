package stockkvm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// Shell boots a host whose serial port is in and out, with a shell on it, and returns when the
// shell ends. If in is a terminal, it is in raw mode meanwhile: ctrl-c goes to the shell inside,
// and ctrl-a x ends QEMU.
func Shell(ctx context.Context, cfg HostConfig, in *os.File, out io.Writer) error {
	qemu, err := qemuBinary()
	if err != nil {
		return err
	}
	cfg.Append = append(cfg.Append, "stockkvm.shell")
	cmd := exec.CommandContext(ctx, qemu, append(cfg.machineArgs(),
		"-append", cfg.commandLine(),
		"-display", "none",
		"-serial", "mon:stdio")...)
	cmd.Stdin, cmd.Stdout = in, out
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("QEMU: %w: %s", err, complaints(stderr.String()))
	}
	return nil
}
