package main

import (
	"strings"

	"github.com/spf13/cobra"

	"taskguide/vmm"
	"taskguide/vmm/device/virtio"
)

// netsFlag holds a machine's network cards, one for each --net.
type netsFlag struct {
	cards []vmm.Net
	text  []string
}

func (f *netsFlag) String() string { return strings.Join(f.text, " ") }
func (f *netsFlag) Type() string   { return "BACKEND[,mac=MAC]" }

func (f *netsFlag) Set(s string) error {
	backend, options, _ := strings.Cut(s, ",")
	kind, name, _ := strings.Cut(backend, ":")
	card := vmm.Net{Backend: virtio.NetBackend(kind), Name: name}
	if (card.Backend != virtio.NetTAP && card.Backend != virtio.NetUnix) || name == "" {
		return usagef("%q: want tap:IFNAME[,mac=MAC] or unix:PATH[,mac=MAC]", s)
	}
	if options != "" {
		address, ok := strings.CutPrefix(options, "mac=")
		if !ok {
			return usagef("option %q: use mac=MAC", options)
		}
		if err := card.MAC.UnmarshalText([]byte(address)); err != nil {
			return err
		}
	}
	f.cards, f.text = append(f.cards, card), append(f.text, s)
	return nil
}

// completeNet completes what a network card is connected to.
func completeNet(_ *cobra.Command, _ []string, typed string) (
	completions, cobra.ShellCompDirective,
) {
	if strings.HasPrefix(typed, "unix:") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return completions{"tap:", "unix:"}, goesOn
}
