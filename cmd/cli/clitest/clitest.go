// Package clitest has what the tests of the programs' command lines share.
package clitest

import (
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"taskguide/cmd/cli"
	"taskguide/control/text"
)

// Program makes a program's root command.
type Program func(cli.Streams) *cobra.Command

// Try runs a command line and returns its exit status and what it wrote.
func (p Program) Try(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700)) // whatever the umask
	t.Setenv("VMM_RUNTIME_DIR", dir)
	file := func(name string) *os.File {
		f, err := os.Create(t.TempDir() + "/" + name)
		require.NoError(t, err)
		return f
	}
	std := cli.Streams{Out: file("out"), Err: file("err")}
	status = cli.Execute(p(std), args, std)
	read := func(f *os.File) string {
		_, err := f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		b, err := io.ReadAll(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		return string(b)
	}
	return status, read(std.Out), read(std.Err)
}

// Complete returns what a shell offers for the last of these words.
func (p Program) Complete(t *testing.T, words ...string) []string {
	t.Helper()
	status, stdout, stderr := p.Try(t, append([]string{"__complete"}, words...)...)
	require.Zero(t, status, stderr)
	var offered []string
	for line := range strings.Lines(stdout) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if !strings.HasPrefix(word, ":") {
			offered = append(offered, word)
		}
	}
	return offered
}

// every calls f with each command that help lists, and the words that name it. A command that
// parses no flags is another program's.
func (p Program) every(f func(*cobra.Command, []string)) {
	var walk func(*cobra.Command, []string)
	walk = func(cmd *cobra.Command, words []string) {
		if cmd.DisableFlagParsing {
			return
		}
		f(cmd, words)
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				walk(c, append(slices.Clone(words), c.Name()))
			}
		}
	}
	walk(p(cli.Streams{}), nil)
}

// RequireHelpFits fails unless the help of at least n commands fits a terminal of the default
// width.
func (p Program) RequireHelpFits(t *testing.T, n int) {
	t.Helper()
	p.every(func(_ *cobra.Command, words []string) {
		n--
		status, stdout, stderr := p.Try(t, append(words, "--help")...)
		require.Zero(t, status, stderr)
		for line := range strings.Lines(stdout) {
			wide := utf8.RuneCountInString(line)
			require.LessOrEqual(t, wide, text.Columns+1, "%v: %s", words, line)
		}
		_, same, _ := p.Try(t, append([]string{"help"}, words...)...)
		require.Equal(t, stdout, same)
	})
	require.LessOrEqual(t, n, 0)
}

// RequireDocumented fails unless a manual's synopsis has each command of the program with each of
// its flags, and no others. of chooses the lines of the synopsis that are about this program.
func (p Program) RequireDocumented(t *testing.T, manual string, of func(command string) bool) {
	t.Helper()
	documented := p.synopsis(t, manual, of)
	p.every(func(cmd *cobra.Command, words []string) {
		if len(words) == 0 || cmd.HasSubCommands() || words[0] == "help" {
			return
		}
		command := strings.Join(words, " ")
		require.True(t, documented[command], "%s is not in the synopsis", command)
		delete(documented, command)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			word := command + " --" + f.Name
			if f.Name != "help" && word != "migrate --rule" {
				require.True(t, documented[word], "%s is not in the synopsis", word)
			}
			delete(documented, word)
		})
	})
	require.Empty(t, documented, "in the synopsis, and not there")
}

// synopsis reads the commands, and their flags, in the first code block of a manual.
func (p Program) synopsis(
	t *testing.T, manual string, of func(command string) bool,
) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(manual)
	require.NoError(t, err)
	_, synopsis, _ := strings.Cut(string(text), "```\n")
	synopsis, _, _ = strings.Cut(synopsis, "```")
	documented := map[string]bool{}
	flag := regexp.MustCompile(`--[a-z-]+`)
	var command string
	for line := range strings.Lines(synopsis) {
		if words := strings.Fields(line); words[0] == "vmm" {
			command = words[1]
			if of(command) {
				cmd, _, err := p(cli.Streams{}).Find(words[1:])
				require.NoError(t, err, line)
				command = strings.TrimPrefix(cmd.CommandPath(), "vmm ")
				documented[command] = true
			}
		}
		first, _, _ := strings.Cut(command, " ")
		for _, f := range flag.FindAllString(line, -1) {
			if of(first) {
				documented[command+" "+f] = true
			}
		}
	}
	return documented
}
