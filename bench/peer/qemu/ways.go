package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Way is something that only some QEMUs can do in a migration.
type Way string

// The ways, as reports name them.
const (
	PostCopy     Way = "post-copy"
	AutoConverge Way = "auto-converge"
	// ZeroPages is a choice of who looks for zero pages: multifd's channels, or the one thread that
	// feeds them.
	ZeroPages Way = "multifd zero pages"
)

// AllWays lists all ways.
var AllWays = []Way{PostCopy, AutoConverge, ZeroPages}

// ErrNoWay is returned when this QEMU cannot do what a migration asks for.
var ErrNoWay = errors.New("this QEMU has no")

// Ways asks a QEMU program, or the installed one if binary is empty, what it can do. It starts that
// program without a machine, because its version does not tell: distributions leave things out.
func Ways(ctx context.Context, binary string) ([]Way, error) {
	vm, err := Start(ctx, Options{Binary: binary, Machine: NoMachine})
	if err != nil {
		return nil, err
	}
	defer vm.Close()
	return vm.ways(ctx)
}

func (vm *VM) ways(ctx context.Context) ([]Way, error) {
	var capabilities []capability
	if err := vm.execute(ctx, "query-migrate-capabilities", nil, &capabilities); err != nil {
		return nil, err
	}
	var parameters struct {
		ZeroPageDetection string `json:"zero-page-detection"`
	}
	if err := vm.execute(ctx, "query-migrate-parameters", nil, &parameters); err != nil {
		return nil, err
	}
	var ways []Way
	for way, name := range map[Way]string{PostCopy: postCopy, AutoConverge: autoConverge} {
		if slices.ContainsFunc(capabilities, func(c capability) bool { return c.Name == name }) {
			ways = append(ways, way)
		}
	}
	if parameters.ZeroPageDetection != "" {
		ways = append(ways, ZeroPages)
	}
	slices.SortFunc(ways, func(a, b Way) int {
		return slices.Index(AllWays, a) - slices.Index(AllWays, b)
	})
	return ways, nil
}

// capability is a switch of QEMU's migration.
type capability struct {
	Name  string `json:"capability"`
	State bool   `json:"state"`
}

// The names of capabilities that not every QEMU has.
const (
	postCopy     = "postcopy-ram"
	autoConverge = "auto-converge"
)

// Needs is the way without which a migration is not possible, or "".
func (m Migration) Needs() Way {
	switch {
	case m.PostCopy:
		return PostCopy
	case m.AutoConverge:
		return AutoConverge
	case m.ZeroPages != "":
		return ZeroPages
	}
	return ""
}

// require returns an error that says what this QEMU lacks for a migration.
func (vm *VM) require(ctx context.Context, m Migration) error {
	if m.Needs() == "" {
		return nil
	}
	ways, err := vm.ways(ctx)
	if err == nil && !slices.Contains(ways, m.Needs()) {
		err = fmt.Errorf("%w %s", ErrNoWay, m.Needs())
	}
	return err
}
