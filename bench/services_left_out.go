//go:build linux

package main

import (
	"fmt"
	"strings"
)

// omissions are notes, below the tables, about rivals that could not be measured.
type omissions []string

// record notes that err prevented the measurement of s and returns nil, so the others are
// measured. It returns the error if s is sendq itself.
func (o *omissions) record(s service, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	where := fmt.Sprintf(format, args...)
	if s.name == chatName {
		return fmt.Errorf("%s %s: %w", s.name, where, err)
	}
	*o = append(*o, fmt.Sprintf("Left out: %s %s: %v.", s.name, where, err))
	return nil
}

// available returns the services that can be measured on this machine.
func (b *bench) available() []service {
	var available []service
	for _, s := range b.services {
		if s.missing == "" {
			available = append(available, s)
		}
	}
	return available
}

// serviceNotes returns a note of the services' versions, and one for each missing service.
func (b *bench) serviceNotes() []string {
	var versions, missing []string
	for _, s := range b.services {
		if s.missing == "" {
			versions = append(versions, s.name+" "+s.version)
		} else {
			missing = append(missing, fmt.Sprintf("Left out: %s (%s).", s.name, s.missing))
		}
	}
	return append([]string{strings.Join(versions, ", ") + "."}, missing...)
}
