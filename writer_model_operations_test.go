package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// The operations of FuzzWriter. Each is for a line and has a number.
const (
	opSend = iota // more often than the others
	opSendAgain
	opBurst
	opStall
	opRelease
	opRead
	opFail
	opFlush
	opSleep
	opEnd
	opSendTo
	opFanOut
	opConcurrent
	opTakeover
	opSlowTakeover
	opHistory
	opJoinReplay
	opAlways
	opUrgent
	opCloseWith
	opWriteAll
	opNotify
	opLatest
	opPublishLatest
	opParts
	opAcknowledge
	opResume
	opCount
)

// do runs one operation.
func (m *model) do(me *sender, op, amount int) {
	i := op / opCount % len(m.lines)
	l := m.lines[i]
	at := l.current()
	switch op % opCount {
	case opSend, opSendAgain:
		me.send(i, at, amount)
	case opBurst:
		for j := range amount {
			me.send(i, at, j%7*10)
		}
	case opStall:
		at.stall()
	case opRelease:
		for _, mw := range l.writers {
			mw.release()
		}
	case opRead:
		at.read(amount * 16)
	case opFail:
		m.settle()
		at.fail(amount)
	case opFlush:
		if amount%2 == 0 {
			m.settle()
		}
		if amount%4 == 3 {
			m.flushes = append(m.flushes, async(func() error {
				_ = at.w.WaitPending(context.Background(), amount*8) // fails if the Writer ends
				return nil
			}))
			break
		}
		before := at.w.Stats()
		if amount%4 == 1 {
			m.noticing.Add(1)
			at.w.OnFlushed(func(err error) {
				defer m.noticing.Done()
				if after := at.w.Stats(); err == nil && after.Written+after.Dropped < before.Accepted {
					m.t.Error("OnFlushed told of success, but not all before it has its outcome")
				}
			})
			break
		}
		m.flushes = append(m.flushes, async(func() error {
			err := at.w.Flush(context.Background())
			after := at.w.Stats()
			if err == nil && after.Written+after.Dropped < before.Accepted {
				return errors.New("Flush told of success, but not all before it has its outcome")
			}
			return nil
		}))
	case opSleep:
		if m.kind == inMemory {
			time.Sleep(time.Duration(amount) * time.Second)
		} else {
			time.Sleep(time.Duration(amount) * time.Microsecond)
		}
	case opEnd:
		switch amount % 3 {
		case 0:
			m.concurrent.Go(func() {
				if err := at.w.Close(); err != nil && at.w.Err() == nil {
					m.t.Errorf("Close fails without a cause: %v", err)
				}
			})
		case 1:
			m.concurrent.Go(func() { at.w.CloseNow() })
		case 2:
			m.concurrent.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(amount)*m.blockTimeout)
				defer cancel()
				_ = at.w.Shutdown(ctx)
			})
		}
		m.settle()
	case opSendTo:
		me.sendTo(amount)
	case opNotify:
		if m.opts.Overflow == sendq.Block { // it may wait
			s := m.newSender()
			m.concurrent.Go(func() { s.writeNotify(i, at, amount) })
		} else {
			me.writeNotify(i, at, amount)
		}
	case opLatest:
		if key := amount % len(at.latest); m.opts.Overflow == sendq.Block { // it may wait
			s := m.newSender()
			m.concurrent.Go(func() { s.writeLatest(i, at, fmt.Sprint("alone ", s.id), amount) })
		} else {
			at.latest[key].writeLatest(i, at, fmt.Sprint(key), amount)
		}
	case opPublishLatest:
		m.latestSender.publishLatest(amount)
	case opParts:
		if m.opts.Overflow == sendq.Block { // it may wait
			s := m.newSender()
			m.concurrent.Go(func() { s.writeParts(i, at, amount) })
		} else {
			me.writeParts(i, at, amount)
		}
	case opWriteAll:
		me.writeAll(amount)
	case opFanOut:
		if amount&8 != 0 {
			me.fanOut(1+amount%9, amount, (*sendq.Batch).Broadcast)
		} else {
			me.fanOut(1+amount%9, amount, func(b *sendq.Batch, p []byte) { b.Publish(modelRoom, p) })
		}
	case opHistory:
		m.historySender.fanOut(1+amount%9, amount, func(b *sendq.Batch, p []byte) { b.Publish(modelHistory, p) })
	case opJoinReplay:
		if !l.joined {
			l.joined = m.historySender.joinReplay(i, amount%32)
		}
	case opConcurrent:
		s := m.newSender()
		direct := amount&64 != 0
		m.concurrent.Go(func() {
			for j := range 1 + amount%64 {
				if length := (amount + j*71) % 256; direct && j%5 == 4 {
					s.sendAlways(i, at, length)
				} else if direct {
					s.sendDirect(i, at, length)
				} else {
					s.sendNamed(i, length)
				}
			}
		})
	case opAlways:
		if m.opts.Overflow != sendq.Block {
			me.sendAlways(i, at, amount)
			break
		}
		s := m.newSender()
		m.concurrent.Go(func() { s.sendAlways(i, at, amount) })
	case opUrgent:
		m.settle()
		for range 1 + amount%3 {
			at.urgent.sendUrgent(i, at, amount)
		}
	case opCloseWith:
		m.newSender().closeWith(i, at, amount)
	case opTakeover:
		m.takeOver(i, amount, false)
	case opSlowTakeover:
		m.takeOver(i, amount, true)
	case opAcknowledge:
		m.acknowledge(at, amount)
	case opResume:
		m.resume(i, amount)
	}
}

// takeOver gives line i a new Writer. If amount is not 0, the Writer gets a message first. If slow
// is true, the old Writer's connection does not close until it is released.
func (m *model) takeOver(i, amount int, slow bool) {
	l := m.lines[i]
	next := m.newWriter(l)
	if amount > 0 {
		m.newSender().sendDirect(i, next, amount)
	}
	m.replace(l, next, slow, func() error { return m.broker.Register(l.name, next.w) })
}

// newWriter returns the next Writer of line l.
func (m *model) newWriter(l *line) *modelWriter {
	next := &modelWriter{modelConn: newModelConn(m.t, m.kind, len(l.writers)%2 > 0, m.convert), notices: make(map[messageID]error)}
	next.w = sendq.NewWriter(next.conn, m.opts)
	next.urgent = m.newSender()
	for key := range next.latest {
		next.latest[key] = m.newSender()
	}
	return next
}

// replace makes next the Writer of line l, by a call of register.
func (m *model) replace(l *line, next *modelWriter, slow bool, register func() error) {
	if len(l.writers) > 0 {
		for _, mw := range l.writers {
			mw.letClose()
		}
		within(m.t, l.current().registered) // one takeover at a time
		if slow {
			l.current().holdClose()
		}
	}
	registered := make(chan error, 1)
	next.registered = registered
	go func() {
		defer close(registered)
		next.refused = register()
		if next.refused == nil {
			_ = m.broker.Room(modelRoom).Join(l.name) // unless it has ended
		}
		next.isSettled.Store(true)
		registered <- next.refused
	}()
	for deadline := time.Now().Add(time.Minute); ; {
		if w, _ := m.broker.Lookup(l.name); w == next.w || len(registered) > 0 || next.w.Err() != nil {
			break
		}
		require.True(m.t, time.Now().Before(deadline), "Register does not begin")
		time.Sleep(5 * time.Microsecond)
	}
	l.writers = append(l.writers, next)
}
