package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hbollon/go-edlib"
	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/control"
)

// nearest is the word that the user probably meant, or "" if none is near: one that begins with
// what was typed, or differs in few letters, which may be wrong, extra, missing or swapped.
func nearest(typed string, words []string) string {
	typed = strings.ToLower(typed)
	few := max(1, len(typed)/3)
	best, least := "", few+1
	for _, w := range words {
		small := strings.ToLower(w)
		d := edlib.OSADamerauLevenshteinDistance(typed, small)
		if d > few && len(typed) >= 2 && strings.HasPrefix(small, typed) {
			d = few
		}
		if d < least && d < len(w) {
			best, least = w, d
		}
	}
	return best
}

// unknown returns an error for a word that is not one of words.
func unknown(typed string, words []string) error {
	last := len(words) - 1
	list := words[last]
	if last > 0 {
		list = strings.Join(words[:last], ", ") + " or " + list
	}
	return fmt.Errorf("%q is unknown: use %s%s", typed, list, meant(typed, words))
}

// meant is the question at the end of an error that has listed words, or "".
func meant(typed string, words []string) string {
	if near := nearest(typed, words); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// noCommand refuses a word that is not a subcommand of cmd.
func noCommand(cmd *cobra.Command, typed string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := nearest(typed, names); near != "" {
		return usagef("unknown command %q: did you mean %s %s?", typed, cmd.CommandPath(), near)
	}
	return usagef("unknown command %q: see %s --help", typed, cmd.CommandPath())
}

// findExperiment is bench.Find with an error for the command line.
func findExperiment(name string) (bench.Experiment, error) {
	e, err := bench.Find(name)
	if err != nil {
		return e, usagef("experiment %w", unknown(name, experimentNames()))
	}
	return e, nil
}

func experimentNames() []string {
	var names []string
	for _, e := range bench.Experiments() {
		names = append(names, e.Name)
	}
	return names
}

// glance is how long a VM has to answer a secondary question: for a completion or a suggestion.
const glance = 500 * time.Millisecond

// suggestVM adds to an error about a VM that does not run the name of a running VM, if one is near.
func suggestVM(ctx context.Context, name string, err error) error {
	if !errors.Is(err, control.ErrNotRunning) || strings.Contains(name, "/") {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	names, errNames := control.Names()
	if errNames != nil {
		return err
	}
	var running []string
	for _, a := range askAll(ctx, names) {
		if a.err == nil {
			running = append(running, a.vm.Name)
		}
	}
	if near := nearest(name, running); near != "" {
		return fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return err
}
