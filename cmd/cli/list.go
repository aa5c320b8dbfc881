package cli

import (
	"fmt"
	"slices"
	"strings"
)

// List is values with commas between them, each of them once.
type List[T comparable] struct {
	Values []T
	text   string
	kind   string
	parse  func(string) (T, error)
}

// ListOf makes a flag for a list of values that parse reads. kind is what help shows for one of
// them. The default must be right.
func ListOf[T comparable](kind, text string, parse func(string) (T, error)) List[T] {
	f := List[T]{kind: kind, parse: parse}
	if text == "" {
		return f
	}
	if err := f.Set(text); err != nil {
		panic(err) // one of our own defaults
	}
	return f
}

func (f *List[T]) String() string { return f.text }

// Type is what help shows behind the flag.
func (f *List[T]) Type() string { return f.kind + "[," + f.kind + "]..." }

// Set reads the list.
func (f *List[T]) Set(s string) error {
	var all []T
	for part := range strings.SplitSeq(s, ",") {
		v, err := f.parse(part)
		if err != nil {
			return err
		}
		if slices.Contains(all, v) {
			return fmt.Errorf("%q is there twice", part)
		}
		all = append(all, v)
	}
	f.Values, f.text = all, s
	return nil
}
