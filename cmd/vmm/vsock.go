package main

import (
	"strconv"
	"strings"

	"taskguide/cmd/cli"
	"taskguide/vmm"
)

// vsockFlag holds a machine's vsock.
type vsockFlag struct {
	vsock *vmm.Vsock // nil: none
	text  string
}

func (f *vsockFlag) String() string { return f.text }
func (f *vsockFlag) Type() string   { return "CID,PATH" }

func (f *vsockFlag) Set(s string) error {
	if f.vsock != nil {
		return cli.Usagef("given twice: a machine has one vsock")
	}
	number, path, _ := strings.Cut(s, ",")
	cid, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return cli.Usagef("%q: want CID,PATH, with a number from 3 up as in 3,/run/vm.vsock", s)
	}
	v := vmm.Vsock{CID: uint32(cid), Path: path}
	if err := v.Check(); err != nil {
		return cli.UsageOf(err)
	}
	f.vsock, f.text = &v, s
	return nil
}
