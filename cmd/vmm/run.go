package main

import (
	"strings"

	"github.com/spf13/cobra"

	"taskguide/control"
	"taskguide/control/host"
	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/transport"
	"taskguide/vmm"
)

func newRun(std streams) *cobra.Command {
	cfg := host.Config{}
	size := newSize("512M")
	prefault := false
	dirtyLog := choose(append([]dirtylog.Kind{dirtylog.Auto}, dirtylog.Kinds...)...)
	cmd := &cobra.Command{
		Use:   "run [--name N] [--memory 512M] [--cpus 1] [--kernel FILE] [--incoming ADDRESS]",
		Short: "run a virtual machine, or wait for a migration to bring one",
		Long: `Run a virtual machine until it ends; the exit status is the byte that the guest wrote to its exit port.

Without --kernel the embedded guest runs; --cmdline says what it does, for instance
"workload=phased ws=64M hot=1M busy=1s cool=1s".

With --incoming, wait for a migration to bring the guest, which keeps its memory, vCPUs and kernel, and carry it on.
With --prefault --memory SIZE as well, have that much memory ready before it comes.
When the guest is moved away with vmm migrate, print where it went and exit with status 0.

On a terminal, Ctrl-A X ends the VM.`,
		Args: exactly(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.MemoryBytes, cfg.DirtyLog = size.bytes, dirtyLog.value
			if prefault {
				cfg.Prefault = host.PrefaultAll
				if cfg.Incoming != "" && cmd.Flags().Changed("memory") {
					cfg.ReadyBytes = size.bytes
				}
			}
			if cfg.Name == "" {
				cfg.Name = host.DefaultName()
			}
			if err := checkRun(cfg); err != nil {
				return usageError{err}
			}
			noteIgnored(cmd, cfg)
			status, err := host.Run(cfg, host.Streams{Stdin: std.in, Stdout: std.out, Stderr: std.err})
			if err == nil && status != 0 {
				return exitStatus(status)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", "", "name of the VM (default vm-PID)")
	f.Var(&size, "memory", "RAM, from 16M up, a multiple of 1M")
	f.IntVar(&cfg.CPUs, "cpus", 1, "vCPUs, 1 to 8")
	f.StringVar(&cfg.Kernel, "kernel", "", "ELF file with a PVH note, or Linux bzImage (default: the embedded guest)")
	f.StringVar(&cfg.Initrd, "initrd", "", "initial RAM disk for the kernel")
	f.StringVar(&cfg.Cmdline, "cmdline", "", "kernel command line")
	f.StringVar(&cfg.Console, "console", "stdio", "where COM1 goes: stdio, file:PATH (begun anew) or off")
	f.StringVar(&cfg.Incoming, "incoming", "", "wait for a migration on tcp:HOST:PORT or unix:PATH")
	f.StringVar(&cfg.TLSDir, "tls-dir", "", "with --incoming: require TLS, with ca.pem, cert.pem and key.pem of this directory")
	f.BoolVar(&prefault, "prefault", false, "give the guest all of its RAM before it runs or arrives")
	f.Var(&dirtyLog, "dirty-log", "how a migration finds out what the guest writes; auto takes the best that KVM offers")
	f.StringVar(&cfg.API, "api", "", "path of the control socket (default NAME.sock in the runtime directory)")
	return cmd
}

// checkRun finds what is wrong with an order before anything is done.
func checkRun(cfg host.Config) error {
	if err := control.CheckName(cfg.Name); err != nil {
		return err
	}
	if err := memory.CheckSize(cfg.MemoryBytes); err != nil {
		return err
	}
	if cfg.CPUs < 1 || cfg.CPUs > vmm.MaxCPUs {
		return usagef("--cpus %d: use 1 to %d", cfg.CPUs, vmm.MaxCPUs)
	}
	if err := host.CheckConsole(cfg.Console); err != nil {
		return err
	}
	if cfg.Initrd != "" && cfg.Kernel == "" {
		return usagef("--initrd without --kernel: the embedded guest takes none")
	}
	if cfg.TLSDir != "" && cfg.Incoming == "" {
		return usagef("--tls-dir without --incoming: it is about incoming migrations")
	}
	if cfg.Incoming != "" {
		if _, _, err := transport.ParseAddress(cfg.Incoming); err != nil {
			return usagef("--incoming: %w", err)
		}
	}
	return nil
}

// noteIgnored says which flags have no effect, as the guest that arrives decides.
func noteIgnored(cmd *cobra.Command, cfg host.Config) {
	if cfg.Incoming == "" {
		return
	}
	var ignored []string
	for _, name := range []string{"memory", "cpus", "kernel", "initrd", "cmdline"} {
		if cmd.Flags().Changed(name) && !(name == "memory" && cfg.ReadyBytes > 0) {
			ignored = append(ignored, "--"+name)
		}
	}
	if len(ignored) > 0 {
		cmd.PrintErrf("vmm: note: %s: the guest that arrives brings its own\n", strings.Join(ignored, ", "))
	}
}
