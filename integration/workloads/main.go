package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"taskguide/integration/stockkvm"
)

func main() {
	out := flag.String("out", "bin/workloads", "the folder for kernel, initrd and disks")
	flag.Parse()
	if err := build(context.Background(), *out); err != nil {
		fmt.Fprintln(os.Stderr, "workloads:", err)
		os.Exit(1)
	}
}

// build makes everything anew. What it fetches stays in the cache.
func build(ctx context.Context, out string) error {
	cache, err := stockkvm.CacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "stockkvm")
	system, err := stockkvm.FetchPackages(ctx, cache)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(out, "vmlinuz"), system.Kernel); err != nil {
		return err
	}
	initrd, err := os.Create(filepath.Join(out, "initrd"))
	if err != nil {
		return err
	}
	if err := errors.Join(system.WriteGuestInitrd(initrd), initrd.Close()); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "workloads-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	load := filepath.Join(dir, "load")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", load,
		"./integration/workloads/load")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := run(build); err != nil {
		return err
	}
	for _, w := range workloads {
		root := filepath.Join(dir, w.name)
		if err := w.fill(ctx, root, cache, system.Busybox, load); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		image := filepath.Join(out, w.name+".img")
		if err := os.RemoveAll(image); err != nil {
			return err
		}
		if err := run(exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, image,
			w.size)); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		fmt.Println(image)
	}
	return nil
}

// run runs a program of this machine, and says what it said if it fails.
func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Path, err, out)
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
