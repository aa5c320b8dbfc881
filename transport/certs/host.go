package certs

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Host is a host by the names under which others dial it.
type Host struct {
	names []string // DNS names and IP addresses; the first also names the host's folder
}

const label = `[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?`

var (
	validName = regexp.MustCompile(`^` + label + `(\.` + label + `)*$`)
	// allDigits matches a name that ends in a number. It looks like an address, and it cannot be a
	// name, because no top-level domain is a number.
	allDigits = regexp.MustCompile(`(^|\.)[0-9]+$`)
)

// maxName is the longest DNS name, in bytes (RFC 1035, 2.3.4).
const maxName = 253

// ParseHost reads NAME[,NAME...], the host names and IP addresses of one host.
func ParseHost(s string) (Host, error) {
	var h Host
	for name := range strings.SplitSeq(s, ",") {
		if err := checkName(name); err != nil {
			return Host{}, err
		}
		h.names = append(h.names, name)
	}
	return h, nil
}

func checkName(name string) error {
	ip, err := netip.ParseAddr(name)
	switch {
	case err == nil && ip.Zone() != "":
		return fmt.Errorf("host %q: leave out %%%s, which only this host knows", name, ip.Zone())
	case err == nil:
		return nil
	case len(name) > maxName, !validName.MatchString(name), allDigits.MatchString(name):
		return fmt.Errorf("host %q: use a host name or an IP address, several of one host "+
			"with commas between", name)
	}
	return nil
}

// Name is what the host's folder is called.
func (h Host) Name() string { return h.names[0] }
