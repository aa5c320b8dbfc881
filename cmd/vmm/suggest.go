package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"taskguide/cmd/cli"
	"taskguide/control"
)

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
	if near := cli.Nearest(name, running); near != "" {
		return fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return err
}
