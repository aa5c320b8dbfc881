package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"taskguide/control"
	"taskguide/control/show"
)

func newTags(std streams) *cobra.Command {
	follow, asJSON := false, false
	cmd := onVM("tags", "show the guest's tasks and whether they are inside a segment", func(ctx context.Context, c *control.Client) error {
		if follow {
			return followTags(ctx, c, std)
		}
		tags, err := within(ctx, answerTimeout, c.Tags)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(std.out, tags)
		}
		return show.Tags(std.out, tags)
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&follow, "follow", false, "print every transition as it happens, until Ctrl-C or the end of the VM")
	return cmd
}

func followTags(ctx context.Context, c *control.Client, std streams) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	events, err := c.TagEvents(ctx)
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		e, err := events.Next()
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		show.Transition(std.out, e)
	}
}
