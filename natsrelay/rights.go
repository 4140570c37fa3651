package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// checkSubjects uses each subject of this node. NATS reports a missing right only on the connection, so
// a node without it would look healthy and lose messages.
func (r *Relay) checkSubjects(ctx context.Context, nc *nats.Conn) error {
	for _, subject := range []string{r.subject("all"), r.subject("to." + r.id)} {
		_ = nc.Publish(subject, r.signal(flagProbe)) // other nodes ignore it
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("natsrelay: %w", err)
	}
	return missingRight(nc)
}

// checkBucket creates the lease of this node, and uses each operation of the bucket. It tries again
// until ctx is done, because a NATS cluster that has just started may not answer yet. It does not if a
// right is missing.
func (r *Relay) checkBucket(ctx context.Context, nc *nats.Conn) error {
	var cause error
	for try := 1; ; try++ {
		err := r.registry.renew(ctx)
		if err == nil {
			err = r.useBucket(ctx)
		}
		if err == nil {
			return nil
		}
		if cause == nil || !errors.Is(err, context.DeadlineExceeded) { // which says less
			cause = err
		}
		if missingRight(nc) != nil || backOff(ctx, try) != nil {
			return r.jetStreamError(nc, cause)
		}
	}
}

func (r *Relay) useBucket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.opts.attemptTimeout())
	defer cancel()
	b, key := r.registry.bucket, leaseKey(r.id)
	_, _, err := b.read(ctx, key)
	if err == nil {
		err = b.list(ctx, key, func(entry) {})
	}
	if err == nil {
		err = b.remove(ctx, key, 0) // removes nothing
	}
	return err
}

// jetStreamError returns an error that says what has to change. err is the error of a request.
func (r *Relay) jetStreamError(nc *nats.Conn, err error) error {
	switch right := missingRight(nc); {
	case right != nil:
		return right
	case errors.Is(err, context.DeadlineExceeded):
		return failed(err, "no answer of JetStream within %v", r.opts.Timeout)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return failed(err, "the NATS servers need JetStream, in the account of this user")
	}
	return failed(err, "bucket %s", r.opts.Cluster)
}

// missingRight returns an error if the server has refused a right on a connection.
func missingRight(nc *nats.Conn) error {
	err := nc.LastError()
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	found := violation.FindStringSubmatch(err.Error())
	if found == nil {
		return failed(err, "missing right")
	}
	right := "publish"
	if found[1] == "Subscription" {
		right = "subscribe"
	}
	return failed(err, "this node needs the right to %s %q, see Rights in README.md", right, grant(found[2]))
}

var violation = regexp.MustCompile(`Violation for (Publish|Subscription) to "([^"]*)"`)

// grant returns the pattern to grant for a subject: without the parts that differ among nodes, names
// and requests.
func grant(subject string) string {
	parts := strings.Split(subject, ".")
	switch {
	case strings.HasPrefix(subject, "$JS.API.CONSUMER."):
		return strings.Join(append(parts[:min(5, len(parts))], ">"), ".")
	case strings.HasPrefix(subject, "$JS."):
		return subject
	case strings.HasPrefix(subject, "_INBOX."):
		return "_INBOX.>"
	case strings.HasPrefix(subject, "$KV."):
		return parts[0] + "." + parts[1] + ".>"
	case len(parts) == 3: // CLUSTER.to.NODE
		return parts[0] + "." + parts[1] + ".*"
	}
	return subject
}
