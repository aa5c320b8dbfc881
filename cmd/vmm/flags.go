package main

import (
	"strings"

	"taskguide/control/units"
)

// sizeFlag is a size in bytes with K, M or G.
type sizeFlag struct {
	bytes int64
	text  string
}

func newSize(text string) sizeFlag {
	var f sizeFlag
	if err := f.Set(text); err != nil {
		panic(err) // a default of ours
	}
	return f
}

func (f *sizeFlag) String() string { return f.text }
func (f *sizeFlag) Type() string   { return "size" }
func (f *sizeFlag) Set(s string) error {
	n, err := units.ParseBytes(s)
	if err == nil {
		f.bytes, f.text = n, s
	}
	return err
}

// rateFlag is a rate in bit/s with kbit, Mbit or Gbit.
type rateFlag struct {
	bitsPerSecond int64
	text          string
}

func (f *rateFlag) String() string { return f.text }
func (f *rateFlag) Type() string   { return "rate" }
func (f *rateFlag) Set(s string) error {
	n, err := units.ParseBitRate(s)
	if err == nil {
		f.bitsPerSecond, f.text = n, s
	}
	return err
}

// choice is one of several words, of which the first is the default.
type choice[T ~string] struct {
	value T
	words []T
}

func choose[T ~string](words ...T) choice[T] { return choice[T]{words[0], words} }

func (c *choice[T]) String() string { return string(c.value) }
func (c *choice[T]) Type() string   { return c.list("|") }
func (c *choice[T]) Set(s string) error {
	for _, w := range c.words {
		if s == string(w) {
			c.value = w
			return nil
		}
	}
	return usagef("use one of %s", c.list(", "))
}

func (c *choice[T]) list(separator string) string {
	var b strings.Builder
	for i, w := range c.words {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(string(w))
	}
	return b.String()
}
