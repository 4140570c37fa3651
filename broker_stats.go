package sendq

import (
	"math/bits"
	"sync/atomic"
)

// BrokerStats are the figures of a Broker and its Writers.
type BrokerStats struct {
	Names, Rooms int // in use

	// Those of the Writers that have ever been given a name: each counts once, however
	// many names it has, and until it ends, even without a name.
	TallyStats

	FanOuts FanOutStats
}

// FanOutStats count the messages to rooms and to all that had a recipient.
type FanOutStats struct {
	Recipients int64 // of all of them together, whether they accepted or not

	// Sizes[i] is how many had at most 4^i recipients, but more than 4^(i-1); the
	// last element, how many had more than 4^10.
	Sizes [12]int64
}

// Stats returns the Broker's figures. It holds nothing up, however many Writers there are:
// see Tally.Stats.
func (b *Broker) Stats() BrokerStats {
	b.mu.Lock()
	s := BrokerStats{Names: b.names.len(), Rooms: b.rooms.len(), FanOuts: b.fanOuts.stats()}
	b.mu.Unlock()
	s.TallyStats = b.tally.Stats()
	return s
}

// A fanOuts counts fan-outs.
type fanOuts struct {
	recipients atomic.Int64
	sizes      [len(FanOutStats{}.Sizes)]atomic.Int64
}

// count counts so many messages to the members of a group but one, unless that is nil.
func (f *fanOuts) count(messages, members int, except *named) {
	if except != nil {
		members--
	}
	if members == 0 {
		return
	}
	i := min((bits.Len(uint(members-1))+1)/2, len(f.sizes)-1) // the logarithm, rounded up
	f.sizes[i].Add(int64(messages))
	f.recipients.Add(int64(messages) * int64(members))
}

func (f *fanOuts) stats() FanOutStats {
	s := FanOutStats{Recipients: f.recipients.Load()}
	for i := range f.sizes {
		s.Sizes[i] = f.sizes[i].Load()
	}
	return s
}
