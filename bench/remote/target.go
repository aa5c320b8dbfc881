package remote

import (
	"errors"
	"fmt"
	"strings"
)

// Target is a host to work at.
type Target struct {
	// Host is what the ssh program is told: a name of its configuration, or [USER@]HOST.
	Host string
	// Address is the name or IP address by which another host reaches it.
	Address string
}

// scheme begins the text of a target.
const scheme = "ssh:"

var errTarget = errors.New("use ssh:[USER@]HOST, or ssh:[USER@]HOST,address=NAME if others " +
	"reach it by another name")

// ParseTarget reads ssh:[USER@]HOST[,address=NAME]. The address is HOST by default.
func ParseTarget(text string) (Target, error) {
	rest, ok := strings.CutPrefix(text, scheme)
	host, option, more := strings.Cut(rest, ",")
	address, named := strings.CutPrefix(option, "address=")
	if !ok || more != named {
		return Target{}, fmt.Errorf("%q: %w", text, errTarget)
	}
	if !more {
		address = host[strings.LastIndexByte(host, '@')+1:]
	}
	// A host that begins with a dash would be an option of ssh.
	if !isName(host, "@") || !isName(address, "") || strings.HasPrefix(host, "-") {
		return Target{}, fmt.Errorf("%q: %w", text, errTarget)
	}
	return Target{host, address}, nil
}

// isName tells whether s has only characters of names and addresses, and those of more.
func isName(s, more string) bool {
	const characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_-%"
	return s != "" && strings.Trim(s, characters+more) == ""
}

func (t Target) String() string {
	text := scheme + t.Host
	if t.Address != t.Host[strings.LastIndexByte(t.Host, '@')+1:] {
		text += ",address=" + t.Address
	}
	return text
}
