package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// batches is how many times each thing is measured. The median counts.
const batches = 21

var sink [8]uint32

//go:noinline
func store(p *uint32, v uint32) { *p = v }

// measured prints the median time of one operation of those that f does.
func measured(name string, operations int, f func()) {
	var all [batches]time.Duration
	for i := range all {
		begin := time.Now()
		f()
		all[i] = time.Since(begin)
	}
	slices.Sort(all[:])
	ns := float64(all[batches/2].Nanoseconds()) / float64(operations)
	fmt.Printf("bench: %s=%.1f ns.\n", name, ns)
}

// tagged opens a task that measures.
func tagged() (*guest.Client, *guest.Slot, error) {
	c, err := guest.Dial(guest.Socket)
	if err != nil {
		return nil, nil, err
	}
	slot, err := c.Open("bench")
	return c, slot, err
}

// pairs enters and leaves a segment so often.
func pairs(slot *guest.Slot, n int) {
	for range n {
		if err := errors.Join(slot.Enter(), slot.Exit()); err != nil {
			fmt.Println("bench: FAULT:", err)
		}
	}
}

func benchQuiet() error {
	c, slot, err := tagged()
	if err != nil {
		return err
	}
	defer c.Close()
	const many = 1000
	measured("store", many, func() {
		for i := range many {
			store(&sink[0], uint32(i))
		}
	})
	measured("store-fence", many, func() {
		for i := range many {
			store(&sink[0], uint32(i))
			guest.Fence()
		}
	})
	measured("tag", 2*many, func() { pairs(slot, many) })
	if err := benchPipe(); err != nil {
		return err
	}
	measured("status", 1, func() { _, _ = epoch(c) })
	fmt.Println("bench: done.")
	return slot.Close()
}

// benchPipe measures a round trip to another thread through two pipes.
func benchPipe() error {
	thereR, thereW, err := os.Pipe()
	if err != nil {
		return err
	}
	backR, backW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer thereW.Close()
	go func() {
		b := make([]byte, 1)
		for {
			if n, err := thereR.Read(b); n == 0 || err != nil {
				return
			}
			_, _ = backW.Write(b)
		}
	}()
	b := make([]byte, 1)
	measured("pipe", 1, func() {
		_, _ = thereW.Write(b)
		_, _ = backR.Read(b)
	})
	return nil
}

// benchRinging measures while a migration waits.
func benchRinging() error {
	c, slot, err := tagged()
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		a, err := c.Ask(guest.Request{Op: "status"})
		if err != nil {
			return err
		}
		if a.Status.State == abi.StateWaiting {
			break
		}
		time.Sleep(retry)
	}
	measured("ring", 2, func() { pairs(slot, 1) })
	if err := benchPipe(); err != nil {
		return err
	}
	fmt.Println("bench: rung.")
	return slot.Close()
}
