package stockkvm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Module is one kernel module, ready to be loaded.
type Module struct {
	Name string // as the kernel spells it, with underscores
	Data []byte // the ELF file, uncompressed
}

// LoadModules returns the named modules and everything that they depend on, in load order. Names
// that are built into the kernel are skipped. It reads the modules' own .modinfo section, because
// the packages have no modules.dep, which is made at installation.
func LoadModules(dir, busybox string, names ...string) ([]Module, error) {
	l := moduleLoader{busybox: busybox, files: map[string]string{}, done: map[string]bool{}}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"),
		func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if name, _, ok := strings.Cut(d.Name(), ".ko"); ok && d.Type().IsRegular() {
				l.files[moduleName(name)] = path
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("list built-in modules: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		name, _, _ := strings.Cut(filepath.Base(strings.TrimSpace(line)), ".ko")
		l.done[moduleName(name)] = true
	}
	for _, name := range names {
		if err := l.load(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return l.modules, nil
}

// moduleName spells a module as the kernel does, because file names mix - and _.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

type moduleLoader struct {
	busybox string
	files   map[string]string // name to path
	done    map[string]bool   // loaded, or built in
	modules []Module
}

func (l *moduleLoader) load(name string) error {
	if l.done[name] {
		return nil
	}
	l.done[name] = true
	path, ok := l.files[name]
	if !ok {
		return fmt.Errorf("kernel module %s is neither built in nor in the package", name)
	}
	data, err := readModule(path, l.busybox)
	if err != nil {
		return err
	}
	depends, err := moduleDepends(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, d := range depends {
		if err := l.load(moduleName(d)); err != nil {
			return fmt.Errorf("%w, needed by %s", err, name)
		}
	}
	l.modules = append(l.modules, Module{Name: name, Data: data})
	return nil
}

// readModule reads a module. Newer kernels compress theirs with xz, which the packaged busybox can
// unpack.
func readModule(path, busybox string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".ko":
		return os.ReadFile(path)
	case ".xz":
		data, err := exec.Command(busybox, "xzcat", path).Output()
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", path, err)
		}
		return data, nil
	}
	return nil, fmt.Errorf("%s: compressed in a way this rig does not know", path)
}

// moduleDepends reads the depends= line of a module's .modinfo section.
func moduleDepends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("not a kernel module: no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok {
			names := strings.Split(string(list), ",")
			return slices.DeleteFunc(names, func(n string) bool { return n == "" }), nil
		}
	}
	return nil, nil
}
