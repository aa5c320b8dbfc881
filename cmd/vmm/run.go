package main

import (
	"slices"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control"
	"taskguide/control/process"
	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/transport"
	"taskguide/vmm"
	"taskguide/vmm/device/virtio"
)

// runFlags are the flags of vmm run.
type runFlags struct {
	cfg                process.Config
	size               cli.Size
	disks              disksFlag
	nets               netsFlag
	vsock              vsockFlag
	cpus               string
	prefault, insecure bool
	logLevel           cli.Choice[string]
	logFormat          cli.Choice[process.LogFormat]
	dirtyLog           cli.Choice[dirtylog.Kind]
	onReset            cli.Choice[process.OnReset]
	balloon            cli.Choice[vmm.Balloon]
}

func newRun(std cli.Streams) *cobra.Command {
	r := &runFlags{
		size:      cli.NewSize("512M"),
		logLevel:  cli.Choose("info", "debug", "warn", "error"),
		logFormat: cli.Choose(process.LogText, process.LogJSON),
		dirtyLog:  cli.Choose(append([]dirtylog.Kind{dirtylog.Auto}, dirtylog.Kinds...)...),
		onReset:   cli.Choose(process.ResetExits, process.ResetReboots),
		balloon:   cli.Choose(vmm.BalloonOff, vmm.BalloonReporting),
	}
	cmd := &cobra.Command{
		Use:   "run [--name N] [--memory 512M] [--cpus 1] [--incoming ADDRESS]",
		Short: "run a virtual machine, or wait for a migration to bring one",
		Long: `Run a virtual machine until it ends; the exit status is the byte that the guest
wrote to its exit port.

Without --kernel the embedded guest runs; --cmdline says what it does, for
instance "workload=phased ws=64M hot=1M busy=1s cool=1s".

With --incoming, wait for a migration to bring the guest, which keeps its
memory, vCPUs and kernel, and carry it on. With --prefault --memory SIZE as
well, have that much memory ready before it comes. When the guest is moved away
with vmm migrate, print where it went and exit with --moved-status.

On a terminal, Ctrl-A X ends the VM.`,
		Args: cli.Exactly(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd, std) },
	}
	r.register(cmd)
	r.complete(cmd)
	return cmd
}

// register adds every flag to cmd.
func (r *runFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.cfg.Name, "name", "", "name of the VM (default vm-PID)")
	f.Var(&r.size, "memory", "RAM, from 16M up, a multiple of 1M")
	f.IntVar(&r.cfg.CPUs, "cpus", 1, "vCPUs, 1 to 8")
	f.StringVar(&r.cpus, "cpu", "host", "hosts whose CPUs must all be able to run the guest: "+
		"files of vmm doctor --cpu, with commas between; host is this one")
	f.StringVar(&r.cfg.Kernel, "kernel", "",
		"Linux bzImage, ELF file with a PVH note, or multiboot kernel "+
			"(default: the embedded guest)")
	f.StringVar(&r.cfg.Initrd, "initrd", "", "initial RAM disk for the kernel, or its module")
	f.StringVar(&r.cfg.Cmdline, "cmdline", "", "kernel command line")
	f.Var(&r.disks, "disk", "a raw image or block device as a virtio disk, once for each; "+
		"options: readonly, cache=auto|direct|host, lock=ofd|none")
	f.Var(&r.nets, "net", "tap:IFNAME, a TAP interface, or unix:PATH, a stream socket, as a "+
		"virtio network card, once for each; options: mac=MAC, and queues=N for a TAP interface "+
		"with several queues")
	f.Var(&r.balloon, "balloon", "whether the guest gives memory that it does not use back to "+
		"the host: off, or reporting")
	f.Var(&r.vsock, "vsock", "streams between programs of host and guest (virtio-vsock): the "+
		"guest's address, and a socket for programs of the host")
	f.StringVar(&r.cfg.Console, "console", "stdio",
		"where COM1 goes: stdio, file:PATH (begun anew) or off")
	f.StringVar(&r.cfg.HVC, "hvc", "off",
		"where the second console goes, hvc0 for Linux: off, stdio, file:PATH (begun anew) or "+
			"unix:PATH (a socket for one program at a time)")
	f.StringVar(&r.cfg.Incoming, "incoming", "",
		"wait for a migration on tcp:HOST:PORT or unix:PATH")
	f.StringVar(&r.cfg.TLSDir, "tls-dir", "",
		"with --incoming: require TLS, with ca.pem, cert.pem and key.pem of this directory")
	f.StringArrayVar(&r.cfg.Allow, "allow", nil,
		"with --tls-dir: who may send, by a name of its certificate; may be repeated "+
			"(default: all of the CA)")
	f.BoolVar(&r.insecure, "insecure", false,
		"with --incoming: take guests from other hosts without TLS")
	f.BoolVar(&r.prefault, "prefault", false,
		"give the guest all of its RAM before it runs or arrives")
	f.Var(&r.dirtyLog, "dirty-log",
		"how a migration finds out what the guest writes, "+r.dirtyLog.List()+
			"; auto takes the best that KVM offers")
	cli.DurationVar(f, &r.cfg.ShutdownTimeout, "shutdown-timeout", process.DefaultShutdownTimeout,
		"how long a guest has that was told to shut down; 0: it is ended at once")
	f.Var(&r.onReset, "on-reset", "what happens when the guest asks for a reset")
	f.IntVar(&r.cfg.MovedStatus, "moved-status", 0,
		"exit status once the guest was moved away, 0 to 255")
	f.Var(&r.logFormat, "log-format", "how log lines look")
	f.Var(&r.logLevel, "log-level", "the least that is logged")
	f.StringVar(&r.cfg.Log.File, "log-file", "",
		"append the log to this file (default standard error)")
	f.StringVar(&r.cfg.API, "api", "",
		"path of the control socket (default NAME.sock in the runtime directory)")
}

// complete sets how the shell completes the flags' values.
func (r *runFlags) complete(cmd *cobra.Command) {
	cli.CompleteFlag(cmd, "incoming", completeAddress)
	cli.CompleteFlag(cmd, "allow", cobra.NoFileCompletions)
	cli.CompleteFlag(cmd, "tls-dir", cli.Folders)
	cli.CompleteFlag(cmd, "console", completeConsole)
	cli.CompleteFlag(cmd, "hvc", completeHVC)
	cli.CompleteFlag(cmd, "disk", completeDisk)
	cli.CompleteFlag(cmd, "net", completeNet)
	cli.CompleteFlag(cmd, "vsock", cobra.NoFileCompletions)
	cli.CompleteFlag(cmd, "name", cobra.NoFileCompletions)
	cli.CompleteFlag(cmd, "cmdline", cobra.NoFileCompletions)
}

// run runs the VM until the machine has ended.
func (r *runFlags) run(cmd *cobra.Command, std cli.Streams) error {
	cfg, err := r.config(cmd)
	if err != nil {
		return cli.UsageOf(err)
	}
	cli.OutliveOutputs()
	cli.PrintNotes(cmd, ignored(cmd, cfg))
	if cfg.Incoming == "" {
		if cfg.CPU, err = readCPUs(r.cpus); err != nil {
			return err
		}
	}
	status, err := process.Run(cfg,
		process.Streams{Stdin: std.In, Stdout: std.Out, Stderr: std.Err})
	if err == nil && status != 0 {
		return cli.ExitStatus(status)
	}
	return err
}

// config returns the configuration that the flags ask for, or an error that says what is wrong.
func (r *runFlags) config(cmd *cobra.Command) (process.Config, error) {
	cfg := r.cfg
	cfg.MemoryBytes, cfg.DirtyLog = r.size.Bytes, r.dirtyLog.Value
	cfg.Disks, cfg.Nets, cfg.Vsock = r.disks.disks, r.nets.cards, r.vsock.vsock
	cfg.Balloon = r.balloon.Value
	cfg.Log.Format = r.logFormat.Value
	if err := cfg.Log.Level.UnmarshalText([]byte(r.logLevel.Value)); err != nil {
		return cfg, err
	}
	cfg.OnReset = r.onReset.Value
	if r.prefault {
		cfg.Prefault = process.PrefaultAll
		if cfg.Incoming != "" && cmd.Flags().Changed("memory") {
			cfg.ReadyBytes = r.size.Bytes
		}
	}
	if cfg.Name == "" {
		cfg.Name = process.DefaultName()
	}
	if r.insecure {
		cfg.Plain = transport.PlainAnywhere
	}
	return cfg, checkRun(cfg)
}

// checkRun looks for mistakes in an order before anything is done.
func checkRun(cfg process.Config) error {
	if err := control.CheckName(cfg.Name); err != nil {
		return err
	}
	if err := memory.CheckSize(cfg.MemoryBytes); err != nil {
		return cli.Usagef("--memory: %w: use whole megabytes, as in 512M", err)
	}
	if cfg.CPUs < 1 || cfg.CPUs > vmm.MaxCPUs {
		return cli.Usagef("--cpus %d: use 1 to %d", cfg.CPUs, vmm.MaxCPUs)
	}
	if cfg.OnReset == process.ResetReboots && cfg.Incoming != "" {
		return cli.Usagef("--on-reset reboot with --incoming: " +
			"a guest that arrives leaves its kernel behind, and has nothing to begin again with")
	}
	if cfg.MovedStatus < 0 || cfg.MovedStatus > 255 {
		return cli.Usagef("--moved-status %d: use 0 to 255", cfg.MovedStatus)
	}
	if err := process.CheckConsole(cfg.Console); err != nil {
		return err
	}
	if err := process.CheckHVC(cfg.HVC, cfg.Console); err != nil {
		return err
	}
	if cfg.Initrd != "" && cfg.Kernel == "" {
		return cli.Usagef("--initrd without --kernel: the embedded guest takes none")
	}
	if len(cfg.Disks) > virtio.MaxDisks {
		return cli.Usagef("--disk %d times: a machine has at most %d disks", len(cfg.Disks),
			virtio.MaxDisks)
	}
	if len(cfg.Nets) > virtio.MaxNets {
		return cli.Usagef("--net %d times: a machine has at most %d network cards", len(cfg.Nets),
			virtio.MaxNets)
	}
	if cfg.Incoming == "" {
		if err := vmm.CheckNets(cfg.Nets, cfg.CPUs); err != nil {
			return cli.Usagef("--net: %w", err)
		}
	}
	return checkIncoming(cfg)
}

// checkIncoming looks for mistakes in how a migration is to be awaited.
func checkIncoming(cfg process.Config) error {
	insecure := cfg.Plain == transport.PlainAnywhere
	switch {
	case cfg.Incoming == "" && cfg.TLSDir != "":
		return cli.Usagef("--tls-dir without --incoming: it is about incoming migrations")
	case cfg.Incoming == "" && insecure:
		return cli.Usagef("--insecure without --incoming: it is about incoming migrations")
	case cfg.TLSDir == "" && len(cfg.Allow) > 0:
		return cli.Usagef("--allow without --tls-dir: nobody has a name in plain text")
	case slices.Contains(cfg.Allow, ""):
		return cli.Usagef("--allow with an empty name: leave it out for all that the CA signed")
	case cfg.Incoming == "":
		return nil
	case insecure && cfg.TLSDir != "":
		return cli.Usagef("--insecure with --tls-dir: use one of them")
	}
	_, _, err := transport.ParseAddress(cfg.Incoming)
	if err == nil && cfg.TLSDir == "" {
		err = transport.Security{Plain: cfg.Plain}.Check(cfg.Incoming)
	}
	if err != nil {
		return cli.Usagef("--incoming: %w", err)
	}
	return nil
}

// ignored returns notes about flags without effect, most of them because the guest that arrives
// decides.
func ignored(cmd *cobra.Command, cfg process.Config) []cli.Note {
	var notes []cli.Note
	if cfg.Incoming == "" {
		if cfg.Prefault == process.PrefaultAll && cfg.Balloon == vmm.BalloonReporting {
			notes = append(notes, cli.Note{
				Flags: []string{"prefault"},
				Why: "with --balloon reporting, the host takes back what the guest does not " +
					"use",
			})
		}
		return notes
	}
	names := []string{"memory", "cpus", "cpu", "kernel", "initrd", "cmdline", "balloon"}
	if cfg.ReadyBytes > 0 {
		names = names[1:]
	}
	if flags := cli.Given(cmd, names...); len(flags) > 0 {
		notes = append(notes, cli.Note{
			Flags: flags, Why: "no effect: the guest that arrives brings its own",
		})
	}
	if flags := cli.Given(cmd, "insecure"); len(flags) > 0 && staysHere(cfg.Incoming) {
		notes = append(notes, cli.Note{Flags: flags, Why: noOtherHost(cfg.Incoming)})
	}
	return notes
}
