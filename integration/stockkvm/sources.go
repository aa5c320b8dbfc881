package stockkvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// FetchSource returns the path of the archive of a Debian package's sources as its authors made
// them, which it fetches into dir if it is missing. The package is named like the sources.
func FetchSource(ctx context.Context, dir, name string) (string, error) {
	root := filepath.Join(dir, "more", name+".source")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("%w: %w", ErrPackages, err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPackages, err)
	}
	defer unlock()
	pattern := filepath.Join(root, name+"_*.orig.tar.*")
	if found, _ := filepath.Glob(pattern); len(found) > 0 {
		return slices.Max(found), nil
	}
	if err := download(ctx, dir, root, sourceFetcher(name)); err != nil {
		return "", fmt.Errorf("%w: %w: put %s into %s", ErrPackages, err, filepath.Base(pattern),
			root)
	}
	found, _ := filepath.Glob(pattern)
	if len(found) == 0 {
		return "", fmt.Errorf("%w: no %s", ErrPackages, pattern)
	}
	return slices.Max(found), nil
}

// sourceFetcher fetches sources from where apt has packages from, whether or not it was told to
// have sources.
func sourceFetcher(name string) fetcher {
	return func(ctx context.Context, a *apt, into string) error {
		lines, err := a.run(ctx, into, "apt-get", "indextargets", "--format",
			"deb-src $(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages", "Origin: Debian")
		if err != nil {
			return err
		}
		all := strings.Split(strings.TrimSpace(lines), "\n")
		slices.Sort(all)
		list := filepath.Join(into, "sources.list")
		text := strings.Join(slices.Compact(all), "\n") + "\n"
		if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
			return err
		}
		own := &apt{append(slices.Clone(a.options), "-o", "Dir::Etc::SourceList="+list,
			"-o", "Dir::Etc::SourceParts=/dev/null")}
		if _, err := own.run(ctx, into, "apt-get", "update", "-qq"); err != nil {
			return err
		}
		_, err = own.run(ctx, into, "apt-get", "source", "-qq", "--download-only", name)
		return err
	}
}
