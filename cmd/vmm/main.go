// Command vmm runs virtual machines and moves them, running, to other processes and hosts.
//
// This package reads flags and prints words. The commands' work is in package control and below.
// docs/cli.md is the manual.
package main

import (
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control/version"
)

// The main goroutine keeps the main thread, which gives the process its name. vCPUs name their
// threads.
func init() { runtime.LockOSThread() }

func main() {
	std := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Execute(newRoot(std), os.Args[1:], std))
}

func newRoot(std cli.Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "vmm",
		Short: "run virtual machines and move them while they run",
		Long: `Run virtual machines and move them, while they run, to other processes and
hosts.

vmm run starts a VM, or waits for one to come; vmm migrate moves it. A VM is
found by its name, through its control socket in $VMM_RUNTIME_DIR, else
$XDG_RUNTIME_DIR/vmm, else /run/vmm.`,
		Version: version.Here(version.Machine{}).Short(),
	}
	root.SetVersionTemplate("vmm {{.Version}}\n")
	root.SetHelpCommand(cli.NewHelp())
	root.AddCommand(
		newRun(std), newMigrate(std), newStatus(std), newPause(std), newResume(std), newStop(std),
		newCancel(std), newTags(std), newTrace(std), newDebug(std), newList(std), newDoctor(std),
		newBench(), newTLS(std), newVersion(std), newCompletion(std),
	)
	root.AddCommand(cli.ManCommands(root, rootSections)...)
	cli.Root(root, std)
	return root
}
