//go:build linux

package main

import (
	"fmt"
	"strings"
)

// Troubles are what went wrong with rivals, to be told below the tables.
type omissions []string

// record remembers that s was not measured because of err, and lets the others go on. Trouble
// with sendq itself ends everything: it is returned.
func (t *omissions) record(s service, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	where := fmt.Sprintf(format, args...)
	if s.name == chatName {
		return fmt.Errorf("%s %s: %w", s.name, where, err)
	}
	*t = append(*t, fmt.Sprintf("Left out: %s %s: %v.", s.name, where, err))
	return nil
}

// present returns the services that can be measured here.
func (b *bench) available() []service {
	var available []service
	for _, s := range b.services {
		if s.missing == "" {
			available = append(available, s)
		}
	}
	return available
}

// serviceNotes name the versions of the services, and those that are left out.
func (b *bench) serviceNotes() []string {
	var versions, missing []string
	for _, s := range b.services {
		if s.missing == "" {
			versions = append(versions, s.name+" "+s.version)
		} else {
			missing = append(missing, fmt.Sprintf("Left out: %s, for %s.", s.name, s.missing))
		}
	}
	return append([]string{strings.Join(versions, ", ") + "."}, missing...)
}
