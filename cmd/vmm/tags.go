package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control"
	"taskguide/control/process"
	"taskguide/control/show"
	"taskguide/migration"
)

func newTags(std cli.Streams) *cobra.Command {
	follow, asJSON := false, false
	act := func(ctx context.Context, c *control.Client) error {
		switch {
		case follow && asJSON:
			return followTags(ctx, c, std, writeEvent)
		case follow:
			return followTags(ctx, c, std, show.Transition)
		}
		tags, err := c.Tags(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(std.Out, tags)
		}
		return show.Tags(std.Out, tags)
	}
	cmd := onVM("tags", "show the guest's tasks and whether they are inside a segment", act)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON; with --follow an event a line")
	cmd.Flags().BoolVar(&follow, "follow", false,
		"print every transition as it happens, until Ctrl-C or the end of the VM")
	return cmd
}

// followTags passes events to write, until Ctrl-C or the end of the VM.
func followTags(
	ctx context.Context, c *control.Client, std cli.Streams, write func(io.Writer, control.Event),
) error {
	ctx, stop := cli.UntilSignal(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	events, err := c.TagEvents(ctx)
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		e, err := events.Next()
		switch {
		case ctx.Err() != nil:
			if process.IsTerminal(std.Err) {
				fmt.Fprintln(std.Err) // the terminal has echoed Ctrl-C
			}
			return nil
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		write(std.Out, e)
	}
}

// writeEvent writes an event as a line of JSON. Like the text, it leaves out events that do not
// matter beside transitions.
func writeEvent(w io.Writer, e control.Event) {
	switch e.Kind {
	case control.EventTag, control.EventLagged, control.EventState, string(migration.NoticePhase):
		_ = json.NewEncoder(w).Encode(e) // as with text, nobody is left to be told
	}
}
