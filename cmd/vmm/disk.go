package main

import (
	"strings"

	"taskguide/cmd/cli"
	"taskguide/vmm"
	"taskguide/vmm/device/virtio"
)

// disksFlag holds a machine's disks, one for each --disk.
type disksFlag struct {
	disks []vmm.Disk
	text  []string
}

func (f *disksFlag) String() string { return strings.Join(f.text, " ") }
func (f *disksFlag) Type() string   { return "FILE[,OPTION]..." }

func (f *disksFlag) Set(s string) error {
	path, options, _ := strings.Cut(s, ",")
	if path == "" {
		return cli.Usagef("want a file: FILE[,readonly][,cache=auto|direct|host][,lock=ofd|none]")
	}
	disk := vmm.Disk{Path: path, Cache: virtio.CacheAuto, Lock: virtio.LockOFD}
	for options != "" {
		var option string
		option, options, _ = strings.Cut(options, ",")
		if err := setDisk(&disk, option); err != nil {
			return err
		}
	}
	f.disks, f.text = append(f.disks, disk), append(f.text, s)
	return nil
}

// setDisk sets one option of a disk.
func setDisk(disk *vmm.Disk, option string) error {
	key, value, _ := strings.Cut(option, "=")
	switch {
	case option == "readonly":
		disk.ReadOnly = true
		return nil
	case key == "cache":
		c := cli.Choose(virtio.CacheAuto, virtio.CacheDirect, virtio.CacheHost)
		err := c.Set(value)
		disk.Cache = c.Value
		return err
	case key == "lock":
		c := cli.Choose(virtio.LockOFD, virtio.LockNone)
		err := c.Set(value)
		disk.Lock = c.Value
		return err
	}
	return cli.Usagef("option %q: use readonly, cache=auto|direct|host or lock=ofd|none", option)
}
