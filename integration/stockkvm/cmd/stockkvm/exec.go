package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"taskguide/integration/stockkvm"
)

func newExec() *cobra.Command {
	o := &hostOptions{}
	cmd := &cobra.Command{
		Use:   "exec [FLAGS] -- COMMAND...",
		Short: "run a command on an emulated host with stock KVM",
		Long: `Boot an emulated host with stock KVM, run a command as root there, and end the host.

Standard output, standard error and the exit status are the command's; its standard input is empty.
Several words are a program and its arguments; one word is a line for the host's shell. The host has
busybox and vmm on its PATH, and the kernel modules tun, bridge, veth, vsock and virtio_blk. Nothing
that the command writes outlives the host but its output and what it wrote to a --disk.

Exit status: the command's; 128 and the number of the signal that ended it; 127 where it did not
start; 2 for a wrong command line, 124 for --timeout, 125 when the host itself failed.
Ctrl-C and SIGTERM end the host at once.`,
		Example: `  stockkvm exec -- vmm doctor
  stockkvm exec --file ./try.sh=/try.sh -- sh /try.sh
  stockkvm exec --file ./program=/bin/ --timeout 5m -- 'program >&2 && cat /tmp/result' > result
  truncate -s 1G disk.img
  stockkvm exec --disk disk.img -- 'mke2fs /dev/vda && mount /dev/vda /mnt'
  stockkvm exec --kernel-inside -- \
      vmm run --kernel /boot/vmlinuz --initrd /boot/initrd --cmdline console=ttyS0`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("no command for the host: stockkvm exec [FLAGS] -- COMMAND...")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := withTimeout(cmd.Context(), o.timeout)
			defer cancel()
			if err := o.check(); err != nil {
				return err
			}
			return whyEnded(ctx, inScratch(func(dir string) error {
				return o.exec(ctx, dir, argv(args))
			}))
		},
	}
	// Words after the command's name belong to the command.
	cmd.Flags().SetInterspersed(false)
	o.register(cmd, 2048)
	o.registerRun(cmd)
	return cmd
}

// argv returns the host's command: a single word is a line for its shell.
func argv(words []string) []string {
	if len(words) == 1 {
		return []string{"sh", "-c", words[0]}
	}
	return words
}

// whyEnded adds the reason why ctx ended to an error that this caused.
func whyEnded(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

func (o *hostOptions) exec(ctx context.Context, dir string, argv []string) error {
	plan, cfg, err := o.prepare(ctx, dir)
	if err != nil {
		return err
	}
	started := time.Now()
	host, err := stockkvm.StartHost(ctx, cfg)
	if err != nil {
		return err
	}
	defer host.Close()
	o.note("the host", host, time.Since(started))
	if _, _, err := host.SetClock(ctx); err != nil {
		return err
	}
	job, err := host.Start(stockkvm.Command{Argv: argv, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return err
	}
	exit, err := job.Wait(ctx)
	if err != nil {
		return err
	}
	if exit.Code < 0 {
		fmt.Fprintf(os.Stderr, "stockkvm: %s\n", exit.Reason)
	}
	if err := plan.keepDisks(ctx, host); err != nil {
		return err
	}
	if status := exit.Status(); status != 0 {
		return exitStatus(status)
	}
	return nil
}

// prepare makes everything that a command's only host needs.
func (o *hostOptions) prepare(
	ctx context.Context, dir string,
) (hostPlan, stockkvm.HostConfig, error) {
	var cfg stockkvm.HostConfig
	vmm, err := findVMM()
	if err != nil {
		return hostPlan{}, cfg, err
	}
	plan, err := o.plan(vmm)
	if err != nil {
		return plan, cfg, err
	}
	rig, err := newRig(ctx, dir)
	if err != nil {
		return plan, cfg, err
	}
	cfg, err = o.config(rig, plan)
	return plan, cfg, err
}

// plan returns the plan of a command's only host.
func (o *hostOptions) plan(vmm string) (hostPlan, error) {
	p := newPlan("host", vmm)
	for _, value := range o.files {
		if err := p.addFile(value); err != nil {
			return p, err
		}
	}
	for _, value := range o.disks {
		if err := p.addDisk(value, ownDisk); err != nil {
			return p, err
		}
	}
	return p, nil
}

func newShell() *cobra.Command {
	o := &hostOptions{}
	cmd := &cobra.Command{
		Use:   "shell [FLAGS]",
		Short: "a shell on an emulated host with stock KVM",
		Long: `Boot an emulated host with stock KVM and show a shell on its console.

'exit' ends the host, Ctrl-A X kills it.`,
		Example: "  stockkvm shell --memory 4G --kernel-inside",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return inScratch(func(dir string) error { return o.shell(cmd.Context(), dir) })
		},
	}
	o.register(cmd, 2048)
	return cmd
}

func (o *hostOptions) shell(ctx context.Context, dir string) error {
	_, cfg, err := o.prepare(ctx, dir)
	if err != nil {
		return err
	}
	return stockkvm.Shell(ctx, cfg, os.Stdin, os.Stdout)
}
