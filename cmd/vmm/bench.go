package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"taskguide/cmd/cli"
)

// newBench is the command that another program carries out: vmm-bench, which also has its help and
// its completions.
func newBench() *cobra.Command {
	return &cobra.Command{
		Use:   "bench COMMAND",
		Short: "run experiments on migrations, and compare with others",
		Long: `Run experiments on migrations, and compare with others. The commands are those of
vmm-bench, which is looked for beside vmm, and then on the PATH.`,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return startBench(args) },
		ValidArgsFunction:  completeBench,
	}
}

// startBench makes this process vmm-bench. So it has the same process ID, standard streams,
// signals and exit status.
func startBench(args []string) error {
	path, env, err := benchProgram()
	if err != nil {
		return err
	}
	err = unix.Exec(path, append([]string{cli.BenchProgram}, args...), env)
	return fmt.Errorf("start %s: %w", path, err)
}

// benchProgram returns vmm-bench's path, and an environment that names this vmm.
func benchProgram() (path string, env []string, err error) {
	if path, err = cli.FindProgram(cli.BenchProgram); err != nil {
		return "", nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("find this program's own file: %w", err)
	}
	return path, append(os.Environ(), cli.VMMVariable+"="+self), nil
}

// completeBench asks vmm-bench. Without it there is nothing to complete.
func completeBench(_ *cobra.Command, args []string, typed string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	path, env, err := benchProgram()
	if err != nil {
		return nil, cli.NoFiles
	}
	words := append([]string{cobra.ShellCompRequestCmd}, args...)
	cmd := exec.Command(path, append(words, typed)...)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		return nil, cli.NoFiles
	}
	return parseCompletions(out)
}

// parseCompletions reads what cobra's hidden command prints: a word in each line, and a directive
// after a colon in the last.
func parseCompletions(out []byte) (cli.Completions, cobra.ShellCompDirective) {
	list, last, found := bytes.Cut(append([]byte("\n"), out...), []byte("\n:"))
	directive, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if !found || err != nil {
		return nil, cli.NoFiles
	}
	var all cli.Completions
	for line := range strings.Lines(string(list)) {
		if word := strings.TrimSuffix(line, "\n"); word != "" {
			all = append(all, word)
		}
	}
	return all, cobra.ShellCompDirective(directive)
}
