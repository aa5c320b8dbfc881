package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"taskguide/control/text"
)

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"run", "--help"}, {"migrate", "-h"}} {
		status, stdout, stderr := try(t, args...)
		require.Zero(t, status)
		require.Contains(t, stdout, "Usage:")
		require.Empty(t, stderr)
	}
}

// everyCommand calls f with each command that help lists, and the words that name it.
func everyCommand(t *testing.T, f func(*cobra.Command, []string)) {
	t.Helper()
	var walk func(*cobra.Command, []string)
	walk = func(cmd *cobra.Command, words []string) {
		f(cmd, words)
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				walk(c, append(slices.Clone(words), c.Name()))
			}
		}
	}
	walk(newRoot(streams{}), nil)
}

// TestHelpFits: help fits a terminal of the default width.
func TestHelpFits(t *testing.T) {
	n := 0
	everyCommand(t, func(_ *cobra.Command, words []string) {
		n++
		status, stdout, stderr := try(t, append(words, "--help")...)
		require.Zero(t, status, stderr)
		for line := range strings.Lines(stdout) {
			wide := utf8.RuneCountInString(line)
			require.LessOrEqual(t, wide, text.Columns+1, "%v: %s", words, line)
		}
		_, same, _ := try(t, append([]string{"help"}, words...)...)
		require.Equal(t, stdout, same)
	})
	require.Greater(t, n, 15)
}

// TestCommandsAreDocumented: the manual's synopsis has every command and every flag, and no others.
func TestCommandsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	require.NoError(t, err)
	_, synopsis, _ := strings.Cut(string(text), "```\n")
	synopsis, _, _ = strings.Cut(synopsis, "```")
	documented := map[string]bool{}
	flag := regexp.MustCompile(`--[a-z-]+`)
	var command string
	for line := range strings.Lines(synopsis) {
		if words := strings.Fields(line); words[0] == "vmm" {
			cmd, _, err := newRoot(streams{}).Find(words[1:])
			require.NoError(t, err, line)
			command = strings.TrimPrefix(cmd.CommandPath(), "vmm ")
			documented[command] = true
		}
		for _, f := range flag.FindAllString(line, -1) {
			documented[command+" "+f] = true
		}
	}
	everyCommand(t, func(cmd *cobra.Command, words []string) {
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
