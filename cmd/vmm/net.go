package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/vmm"
	"taskguide/vmm/device/virtio"
)

// netsFlag holds a machine's network cards, one for each --net.
type netsFlag struct {
	cards []vmm.Net
	text  []string
}

func (f *netsFlag) String() string { return strings.Join(f.text, " ") }
func (f *netsFlag) Type() string   { return "BACKEND[,mac=MAC][,queues=N]" }

func (f *netsFlag) Set(s string) error {
	backend, options, _ := strings.Cut(s, ",")
	kind, name, _ := strings.Cut(backend, ":")
	card := vmm.Net{Backend: virtio.NetBackend(kind), Name: name}
	if (card.Backend != virtio.NetTAP && card.Backend != virtio.NetUnix) || name == "" {
		return cli.Usagef("%q: want tap:IFNAME[,mac=MAC][,queues=N] or unix:PATH[,mac=MAC]", s)
	}
	for options != "" {
		var option string
		option, options, _ = strings.Cut(options, ",")
		if err := setNetOption(&card, option); err != nil {
			return err
		}
	}
	f.cards, f.text = append(f.cards, card), append(f.text, s)
	return nil
}

// setNetOption sets an option of a card.
func setNetOption(card *vmm.Net, option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch {
	case name == "mac" && card.MAC == virtio.MAC{}:
		return card.MAC.UnmarshalText([]byte(value))
	case name == "queues" && card.Backend == virtio.NetTAP && card.Queues == 0:
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > virtio.MaxNetPairs {
			return cli.Usagef("option %q: want 1 to %d pairs of queues", option, virtio.MaxNetPairs)
		}
		card.Queues = n
		return nil
	case name == "queues" && card.Backend == virtio.NetUnix:
		return cli.Usagef("option %q: only a card on a TAP interface has several queues", option)
	case name == "mac" || name == "queues":
		return cli.Usagef("option %q: given twice", option)
	}
	return cli.Usagef("option %q: use mac=MAC or queues=N", option)
}

// completeNet completes what a network card is connected to.
func completeNet(_ *cobra.Command, _ []string, typed string) (
	cli.Completions, cobra.ShellCompDirective,
) {
	if strings.HasPrefix(typed, "unix:") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return cli.Completions{"tap:", "unix:"}, cli.GoesOn
}
