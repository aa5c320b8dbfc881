package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/control/process"
	"taskguide/control/show"
	"taskguide/vmm/cpu"
	"taskguide/vmm/probe"
)

func newDoctor(std cli.Streams) *cobra.Command {
	asJSON, asCPU := false, false
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "show what this host's KVM offers, and what follows from it",
		Args:  cli.Exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if asCPU {
				if asJSON {
					return cli.Usagef(
						"--json with --cpu: a CPU file is JSON anyway, leave --json out")
				}
				return writeCPU(std.Out)
			}
			h, err := probe.Ask()
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(std.Out, h)
			}
			show.KVM(std.Out, h)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&asCPU, "cpu", false,
		"print this host's CPU table, a file for vmm run --cpu")
	return cmd
}

// writeCPU writes this host's CPU file.
func writeCPU(w io.Writer) error {
	h, err := probe.CPU()
	if err != nil {
		return err
	}
	data, err := h.Encode()
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// readCPUs reads the CPU files of --cpu. "host" means this host, which is nil in the result.
func readCPUs(list string) ([]*cpu.Processor, error) {
	var hosts []*cpu.Processor
	for name := range strings.SplitSeq(list, ",") {
		switch name {
		case "":
			return nil, cli.Usagef("--cpu %q: want host or files of vmm doctor --cpu, and commas",
				list)
		case "host":
			hosts = append(hosts, nil)
			continue
		}
		data, err := readCPUFile(name)
		if err != nil {
			return nil, fmt.Errorf("--cpu: %w", err)
		}
		h, err := cpu.Decode(name, data)
		if err != nil {
			return nil, fmt.Errorf("--cpu: %w", err)
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// readCPUFile reads a CPU file. It stops at the largest size that a CPU file can have.
func readCPUFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, process.FileError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, cpu.MaxFileBytes+1))
	return data, process.FileError(err)
}
