package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/transport/certs"
)

func newTLS(std cli.Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tls",
		Short: "make the certificates of hosts, for --tls-dir",
		Args:  cli.OfCommands,
		RunE:  cli.WithoutCommand,
	}
	cmd.AddCommand(newTLSInit(std))
	return cmd
}

func newTLSInit(std cli.Streams) *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use:   "init DIR --host NAME[,NAME...]...",
		Short: "make a CA, and a pair of certificate and key for each host",
		Long: `Make a CA in DIR, or take the one that is there, and below it a folder for each
host, which is its --tls-dir. The names of a host are those by which others
reach it, host names and IP addresses; the first is the folder's. Run it again
for further hosts, for other names of a host, and to renew a certificate before
it expires: all of them stay valid together, as the CA stays.`,
		Example: "  vmm tls init certs --host web1,10.0.0.1 --host web2,10.0.0.2",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return cli.Usagef("vmm tls init wants a directory: see vmm tls init --help")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			// People also type --host a b.
			hosts, err := parseHosts(append(names, args[1:]...))
			if err != nil {
				return cli.UsageOf(err)
			}
			return initTLS(std.Out, args[0], hosts)
		},
		ValidArgsFunction: cli.Folders,
	}
	cmd.Flags().StringArrayVar(&names, "host", nil, "a host by its names, with commas between")
	return cmd
}

func parseHosts(names []string) ([]certs.Host, error) {
	if len(names) == 0 {
		return nil, cli.Usagef("vmm tls init without --host: name the hosts that move guests")
	}
	var hosts []certs.Host
	for _, n := range names {
		h, err := certs.ParseHost(n)
		if err != nil {
			return nil, fmt.Errorf("--host: %w", err)
		}
		same := func(other certs.Host) bool { return strings.EqualFold(other.Name(), h.Name()) }
		if slices.ContainsFunc(hosts, same) {
			return nil, fmt.Errorf("--host %s is there twice: give all its names at once, "+
				"with commas between", h.Name())
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

func initTLS(out io.Writer, dir string, hosts []certs.Host) error {
	ca, origin, err := certs.Open(dir, time.Now())
	if err != nil {
		return err
	}
	words := map[certs.Origin]string{certs.Made: "made", certs.Found: "found"}
	fmt.Fprintf(out, "%s a CA in %s, valid until %s; its key stays there\n", words[origin], dir,
		ca.Until().Format(time.DateOnly))
	words[certs.Found] = "renewed"
	for _, h := range hosts {
		pair, err := ca.Issue(h)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s, valid until %s\n", words[pair.Origin], pair.Dir,
			pair.Until.Format(time.DateOnly))
	}
	fmt.Fprintln(out, "copy each folder to its host, where it is the --tls-dir of all commands")
	return nil
}
