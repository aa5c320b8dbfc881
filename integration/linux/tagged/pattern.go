package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

const (
	keptBytes    = 4 << 20
	mostPages    = 256 // of the memory that is given back and taken again
	patternPause = 20 * time.Millisecond
	patternSays  = 5 * time.Second
)

// pattern keeps some memory, and takes other memory again and again, which the kernel may have had
// from a program that has died. Nobody else may write to either.
func pattern(name string) error {
	kept, err := taken(keptBytes)
	if err != nil {
		return err
	}
	fill(kept, 0)
	said := time.Now()
	for round := uint64(1); ; round++ {
		fresh, err := taken((1 + rand.IntN(mostPages)) * unix.Getpagesize())
		if err != nil {
			return err
		}
		fill(fresh, round)
		time.Sleep(patternPause)
		check(name, fresh, round)
		check(name, kept, 0)
		if err := unix.Munmap(fresh); err != nil {
			return err
		}
		if time.Since(said) > patternSays {
			fmt.Printf("%s: intact after rounds=%d.\n", name, round)
			said = time.Now()
		}
	}
}

func taken(bytes int) ([]byte, error) {
	return unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// word is what stands at a place in memory.
func word(seed uint64, at int) uint64 { return (seed<<32 + uint64(at) + 1) * 0x9e3779b97f4a7c15 }

func fill(memory []byte, seed uint64) {
	for at := 0; at < len(memory); at += 8 {
		binary.NativeEndian.PutUint64(memory[at:], word(seed, at))
	}
}

func check(name string, memory []byte, seed uint64) {
	for at := 0; at < len(memory); at += 8 {
		if is := binary.NativeEndian.Uint64(memory[at:]); is != word(seed, at) {
			fmt.Printf("%s: FAULT: byte %d of its memory is %#x\n", name, at, is)
		}
	}
}
