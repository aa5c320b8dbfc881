package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/bench/peer/qemu"
	"taskguide/bench/shard"
	"taskguide/bench/trial"
	"taskguide/vmm/probe"
)

// These are the files of a run's folder. Only the first two cannot be computed from the others.
const (
	runFile     = "run.json"
	rawFile     = "raw.jsonl"
	trialsFile  = "trials.csv"
	roundsFile  = "rounds.csv"
	eventsFile  = "events.csv"
	summaryFile = "summary.json"
	textFile    = "report.txt"
	reportFile  = "report.html"
)

// Run says what was run, where and when. It is written when a run begins, and a resumed run follows
// it.
type Run struct {
	Experiment string `json:"experiment"`
	Size       Size   `json:"size"`
	Seed       uint64 `json:"seed"`
	// BitsPerSecond is the rate of the link between network namespaces, in bit/s; 0 is the
	// loopback.
	BitsPerSecond int64 `json:"netns_bits_per_second"`
	Trials        int   `json:"trials"` // planned
	// Shard is the part that was run, where that is not all.
	Shard shard.Shard `json:"shard,omitzero"`
	// Parts are the runs that this one was joined from.
	Parts []Part `json:"parts,omitempty"`
	// Custom is the experiment of a file.
	Custom *Custom `json:"custom,omitempty"`
	// Before tells whether some trials are of another vmm.
	Before bool `json:"before,omitempty"`
	// Ways are what the host's QEMU can do, beside what all can.
	Ways []qemu.Way `json:"qemu_ways,omitempty"`
	// Factors are what the user said to compare.
	Factors Factors   `json:"factors,omitzero"`
	Started time.Time `json:"started"`
	// Host is where it ran: that of the sources, if there are two.
	Host Environment `json:"host"`
	// Hosts are both, of a run over ssh.
	Hosts *RunHosts `json:"hosts,omitempty"`
	// Inputs are the files that its trials read, as they were when it began.
	Inputs Inputs `json:"inputs,omitempty"`
	// Resumed lists when the run was resumed, and where.
	Resumed []Resumption `json:"resumed,omitempty"`
}

// Resumption is one resumption of a run. Older builds stored neither hosts nor inputs.
type Resumption struct {
	Started time.Time   `json:"started"`
	Host    Environment `json:"host"`
	Hosts   *RunHosts   `json:"hosts,omitempty"`
	Inputs  Inputs      `json:"inputs,omitempty"`
}

// begun is how the run began, to be compared with its resumptions.
func (r Run) begun() Resumption {
	return Resumption{Started: r.Started, Host: r.Host, Hosts: r.Hosts, Inputs: r.Inputs}
}

func (r Run) setting() Setting {
	return Setting{
		Size: r.Size, BitsPerSecond: r.BitsPerSecond, QEMU: r.Host.QEMU, Ways: r.Ways,
		Before:  r.Before,
		Factors: r.Factors, Shard: r.Shard,
	}
}

// Environment is the machine and the software of a run.
type Environment struct {
	KVM         string `json:"kvm"` // probe.Kind
	Kernel      string `json:"kernel"`
	CPU         string `json:"cpu"`
	CPUs        int    `json:"cpus"`
	MemoryBytes int64  `json:"memory_bytes"`
	VMM         string `json:"vmm"` // version control's revision, if known
	Go          string `json:"go"`
	QEMU        string `json:"qemu"` // its version, empty if it is not installed
	// Before is the build of the other vmm, as buildOf names it; empty if there is none.
	Before string `json:"before,omitempty"`
}

// ThisHost describes this host, and the programs that trials start there.
func ThisHost(p Programs) (Environment, error) {
	kvm, err := probe.Ask()
	if err != nil {
		return Environment{}, err
	}
	before, err := buildOf(p.Before)
	if err != nil {
		return Environment{}, err
	}
	h := Environment{
		KVM: string(kvm.Kind), Kernel: kvm.Kernel, CPU: kvm.CPU, CPUs: runtime.NumCPU(),
		MemoryBytes: totalMemory(),
		VMM:         buildName(revision(), p.VMM), Go: runtime.Version(),
		QEMU:   qemuVersion(p.QEMU),
		Before: before,
	}
	return h, nil
}

// buildName is the name of a build: the revision of its sources. If these were changed since, the
// first digits of the SHA-256 of its program follow, because two builds of changed sources have the
// same revision.
func buildName(revision, program string) string {
	if !strings.HasSuffix(revision, "+") {
		return revision
	}
	hash, err := hashOf(program)
	if err != nil {
		return revision // there is none at this host
	}
	return revision + hash[:hashDigits]
}

// revision is the revision of the sources, followed by "+" if they were changed since.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	rev := settings["vcs.revision"]
	if rev == "" {
		return info.Main.Version
	}
	if settings["vcs.modified"] == "true" {
		rev += "+"
	}
	return rev
}

// These are errors of a run's folder.
var (
	ErrExists = errors.New("already holds results: add --resume to go on with them, or choose " +
		"another --out")
	// ErrNotEmpty protects what is there: pictures and tables of a report would replace files.
	ErrNotEmpty = errors.New("has other files in it: choose another --out, which may be new")
	ErrNoRun    = errors.New("holds no results of vmm bench run: name the folder of a run")
	ErrInUse    = errors.New("is being written by another run")
)

// Store keeps the results of a run in a folder.
type Store struct {
	dir string
	raw *os.File
}

// Create begins a run in dir. It makes dir if necessary.
func Create(dir string, run Run) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for results: %w", err)
	}
	// Look before openStore, which makes a file.
	if err := requireVacant(dir); err != nil && !errors.Is(err, ErrExists) {
		return nil, err
	}
	s, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	// The lock is held now, so nobody else can be about to begin a run here.
	if err = requireVacant(dir); err == nil {
		err = writeRun(dir, run)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// requireVacant returns an error unless dir is empty. A file of raw results without a result is
// what openStore leaves of a run that could not begin.
func requireVacant(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, runFile)); err == nil {
		return fmt.Errorf("%s %w", dir, ErrExists)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the folder for results: %w", err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return fmt.Errorf("read the folder for results: %w", err)
		}
		if f.Name() != rawFile || info.Size() > 0 {
			return fmt.Errorf("%s %w", dir, ErrNotEmpty)
		}
	}
	return nil
}

func writeRun(dir string, run Run) error {
	b, err := json.MarshalIndent(run, "", "  ")
	if err != nil {
		return err
	}
	// Write another file and rename it, so that a whole file exists at any time.
	path := filepath.Join(dir, runFile)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("begin a run: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("begin a run: %w", err)
	}
	return nil
}

// Resume continues the run in dir, notes where and with what, and returns its results so far.
func Resume(dir string, now Resumption) (*Store, Run, []trial.Result, error) {
	if _, _, err := Load(dir); err != nil {
		return nil, Run{}, nil, err
	}
	s, err := openStore(dir)
	if err != nil {
		return nil, Run{}, nil, err
	}
	// Load again, now that nobody else writes.
	run, results, err := Load(dir)
	if err == nil {
		run.Resumed = append(run.Resumed, now)
		err = writeRun(dir, run)
	}
	if err != nil {
		s.Close()
		return nil, run, nil, err
	}
	return s, run, results, nil
}

// openStore opens the raw results to add more, and locks them. It removes half a line, which a
// power failure may leave.
func openStore(dir string) (*Store, error) {
	f, err := os.OpenFile(filepath.Join(dir, rawFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open raw results: %w", err)
	}
	// The kernel drops the lock with the file's last descriptor, however this process ends.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s %w", dir, ErrInUse)
		}
		return nil, fmt.Errorf("lock raw results: %w", err)
	}
	b, err := io.ReadAll(f)
	if err == nil {
		whole := int64(bytes.LastIndexByte(b, '\n') + 1)
		if err = f.Truncate(whole); err == nil {
			_, err = f.Seek(whole, io.SeekStart)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open raw results: %w", err)
	}
	return &Store{dir, f}, nil
}

// Add stores a result. When it returns, the result is on the disk.
func (s *Store) Add(r trial.Result) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep a result: %w", err)
	}
	if _, err := s.raw.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("keep a result: %w", err)
	}
	if err := s.raw.Sync(); err != nil {
		return fmt.Errorf("keep a result: %w", err)
	}
	return nil
}

// Close closes the raw results.
func (s *Store) Close() error { return s.raw.Close() }

// Load reads a run's folder.
func Load(dir string) (Run, []trial.Result, error) {
	var run Run
	b, err := os.ReadFile(filepath.Join(dir, runFile))
	if errors.Is(err, fs.ErrNotExist) {
		return run, nil, fmt.Errorf("%s %w", dir, ErrNoRun)
	}
	if err != nil {
		return run, nil, fmt.Errorf("read a run: %w", err)
	}
	if err := json.Unmarshal(b, &run); err != nil {
		return run, nil, fmt.Errorf("read %s: %w", filepath.Join(dir, runFile), err)
	}
	f, err := os.Open(filepath.Join(dir, rawFile))
	if errors.Is(err, fs.ErrNotExist) {
		return run, nil, nil
	}
	if err != nil {
		return run, nil, fmt.Errorf("read results: %w", err)
	}
	defer f.Close()
	results, err := readResults(f)
	if err != nil {
		return run, nil, fmt.Errorf("read %s: %w", filepath.Join(dir, rawFile), err)
	}
	return run, results, nil
}

// readResults reads whole lines. A line without an end was being written when everything stopped.
func readResults(r io.Reader) ([]trial.Result, error) {
	in := bufio.NewReader(r)
	var results []trial.Result
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return nil, err
		}
		var result trial.Result
		if err := json.Unmarshal(line, &result); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		results = append(results, result)
	}
}
