package natsrelay

import (
	"cmp"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sendq-go/sendq"
)

var (
	simSeed  = flag.Uint64("simseed", 0, "run TestSimulation with this seed, and later ones if -simseeds is given")
	simSeeds = flag.Int("simseeds", 0, "number of seeds of TestSimulation")
	simTrace = flag.Bool("simtrace", false, "print what happens in TestSimulation")
)

// TestSimulation runs clusters of 3 to 5 nodes in one process under a virtual clock, without NATS.
// Links and nodes fail in many ways; afterwards all nodes must agree, and every message must have
// ended as reported. The seed determines a run, except for the order of goroutines that run at the
// same virtual time.
func TestSimulation(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that a seed repeats
	first, n := cmp.Or(*simSeed, 1), *simSeeds
	switch {
	case n > 0:
	case *simSeed > 0:
		n = 1
	default:
		n = 60
	}
	for seed := first; seed < first+uint64(n); seed++ {
		var s *simulation
		synctest.Test(t, func(t *testing.T) {
			s = newSimulation(seed)
			s.run()
		})
		s.report(t)
	}
}

func init() {
	// In a simulation, the jitter depends on the virtual time alone.
	jitter = func(d time.Duration) time.Duration {
		return time.Duration(rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1)).Int64N(int64(d)))
	}
}

// A simulation is a run with one seed.
type simulation struct {
	seed         uint64
	random       *rand.Rand
	network      *simNetwork
	bucket       *simBucket
	ledger       *simLedger
	relayOptions Options
	policy       sendq.NamePolicy
	names, rooms []string
	pace         time.Duration // between two actions of a client, at most
	faultPace    time.Duration // between two faults, at most
	isRestless   bool          // clients come and go all the time
	isImpatient  bool          // registrations often give up
	isSlow       bool          // connections are stalled when they begin, and end slowly
	weather      simWeather
	servers      *simServers
	skews        []time.Duration // of the clocks of machines
	clients      []*simClient
	users        []*simUser
	linger       time.Duration // of names

	chaos     sync.WaitGroup
	isCalm    bool          // no fault may begin; mu guards it
	calm      chan struct{} // closed when all faults must end
	stop      chan struct{} // closed when clients stop
	observers sync.WaitGroup

	mu       sync.Mutex
	machines []*simMachine
	faults   []*simFault
}

// A simWeather says which faults happen.
type simWeather int

const (
	simStorm       simWeather = iota // all kinds
	simServerStorm                   // only NATS servers are cut off
	simNoStorm                       // none
)

// A simMachine runs a process at a time.
type simMachine struct {
	process      *simProcess // nil if there is none
	incarnation  int
	isRestarting bool
}

func newSimulation(seed uint64) *simulation {
	random := rand.New(rand.NewPCG(seed, 0))
	delays := []time.Duration{time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 150 * time.Millisecond}
	s := &simulation{
		seed:         seed,
		random:       random,
		network:      newSimNetwork(seed, delays[random.IntN(len(delays))]),
		bucket:       &simBucket{},
		ledger:       newSimLedger(),
		relayOptions: Options{Lease: 10 * time.Second, Timeout: 5 * time.Second},
		policy:       []sendq.NamePolicy{sendq.NameTakeover, sendq.NameTakeover, sendq.NameReject}[random.IntN(3)],
		names:        []string{"alice", "bob", "carol", "dave", "erin"}[:1+random.IntN(5)],
		rooms:        []string{"go", "rust"},
		pace:         []time.Duration{100, 400, 1500}[random.IntN(3)] * time.Millisecond,
		faultPace:    []time.Duration{2, 5, 12}[random.IntN(3)] * time.Second,
		isRestless:   random.IntN(2) == 0,
		isImpatient:  random.IntN(3) == 0,
		isSlow:       random.IntN(3) == 0,
		weather:      []simWeather{simStorm, simStorm, simStorm, simStorm, simServerStorm, simNoStorm}[random.IntN(6)],
		servers:      newSimServers(1 + 2*random.IntN(2)),
		calm:         make(chan struct{}),
		stop:         make(chan struct{}),
		machines:     make([]*simMachine, 3+random.IntN(3)),
	}
	if s.weather == simServerStorm {
		s.servers = newSimServers(3)
	}
	skew := []time.Duration{time.Nanosecond, time.Nanosecond, time.Second, time.Hour}[random.IntN(4)]
	for i := range s.machines {
		s.machines[i] = &simMachine{}
		s.skews = append(s.skews, time.Duration(random.Int64N(int64(skew))))
	}
	for i := range 3 + random.IntN(5) {
		s.clients = append(s.clients, &simClient{sim: s, id: i, pace: s.pace, random: rand.New(rand.NewPCG(seed, uint64(100+i)))})
	}
	s.linger = []time.Duration{0, 2 * time.Second, 20 * time.Second, time.Hour}[random.IntN(4)]
	for i := range random.IntN(3) {
		c := &simClient{sim: s, id: 50 + i, pace: s.pace, random: rand.New(rand.NewPCG(seed, uint64(150+i)))}
		s.users = append(s.users, &simUser{simClient: c, name: []string{"ursula", "victor"}[i]})
	}
	if s.isSlow { // so that messages are pending
		n := len(s.clients)
		s.clients = append(s.clients, &simClient{sim: s, id: n, pace: 200 * time.Millisecond, isSender: true, random: rand.New(rand.NewPCG(seed, uint64(100+n)))})
	}
	return s
}

// run runs the simulation.
func (s *simulation) run() {
	if *simTrace {
		s.relayOptions.Log = slog.New(slog.NewTextHandler(s.ledger, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	}
	s.ledger.tell("%d machines, %d servers, %d clients, %d users, linger %v, %v, %v, delays of %v, impatient: %v, slow: %v, weather: %v",
		len(s.machines), s.servers.n, len(s.clients), len(s.users), s.linger, s.names, s.policy, s.network.delay, s.isImpatient, s.isSlow, s.weather)
	for i := range s.machines {
		time.Sleep(time.Duration(s.random.Int64N(int64(100 * time.Millisecond))))
		s.start(i)
	}
	time.Sleep(s.relayOptions.Lease / 2)
	var clients sync.WaitGroup
	for _, c := range s.clients {
		clients.Go(c.run)
	}
	for _, u := range s.users {
		clients.Go(u.run)
	}
	(&simChaos{s, rand.New(rand.NewPCG(s.seed, 1))}).run(time.Duration(10+s.random.IntN(50)) * time.Second)
	s.mu.Lock()
	s.isCalm = true
	s.mu.Unlock()
	close(s.calm)
	s.wait("the faults end", &s.chaos)
	close(s.stop)
	s.wait("the clients have answers", &clients)
	s.endAway()
	s.ledger.quietAt = time.Now()
	s.ledger.tell("quiet")
	time.Sleep(2*s.relayOptions.Lease + time.Second)
	s.checkQuiet()
	s.leave()
	// When a node dies, the others also find entries of nodes that they have never heard of.
	up := s.upProcesses()
	up[s.random.IntN(len(up))].kill()
	time.Sleep(3*s.relayOptions.Lease + 5*time.Second)
	s.checkEmpty()
	s.shutDown()
	s.checkEnd()
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// wait waits for g, and panics if that takes too long.
func (s *simulation) wait(what string, g *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		g.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Minute):
		panic(fmt.Sprintf("seed %d: waiting until %s\n%s", s.seed, what, strings.Join(s.ledger.trace, "\n")))
	}
}

// recipients returns the names that get messages.
func (s *simulation) recipients() []string {
	all := slices.Clone(s.names)
	for _, u := range s.users {
		all = append(all, u.name)
	}
	return all
}

func (s *simulation) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// start starts a process on a machine.
func (s *simulation) start(machine int) {
	for {
		s.mu.Lock()
		s.machines[machine].incarnation++
		n := s.machines[machine].incarnation
		s.mu.Unlock()
		if p := s.startProcess(machine, n); p != nil {
			s.ledger.tell("%s has started", p.id)
			return
		}
	}
}

func (s *simulation) setRunning(p *simProcess, isRunning bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machines[p.machine]
	switch {
	case isRunning:
		m.process = p
	case m.process == p:
		m.process = nil
	}
}

// running returns the process of a machine, or nil.
func (s *simulation) running(machine int) *simProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machines[machine].process
}

// upProcesses returns the processes that clients can use.
func (s *simulation) upProcesses() (up []*simProcess) {
	for i := range s.machines {
		if p := s.running(i); p != nil && p.isUp() {
			up = append(up, p)
		}
	}
	return up
}

func (s *simulation) beginRestart(machine int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machines[machine]
	ok := !m.isRestarting
	m.isRestarting = true
	return ok
}

func (s *simulation) endRestart(machine int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines[machine].isRestarting = false
}

// publish carries an envelope to its subscribers.
func (s *simulation) publish(from *simNATS, subject string, envelope []byte) {
	there, _ := from.place()
	for i := range s.machines {
		p := s.running(i)
		if p == nil || subject != p.relay.subject("all") && subject != p.relay.subject("to."+p.id) {
			continue
		}
		if here, ok := p.messages.place(); ok {
			s.servers.pass(there, here, func() {
				s.network.send(simRoute{from.process.machine, i}, "envelope", true, func() { p.receive(envelope) })
			})
		}
	}
}

// watch records the end of a session.
func (s *simulation) watch(session *simSession) {
	s.observers.Go(func() {
		<-session.writer.Done()
		s.ledger.ended(session)
	})
}

func (s *simulation) addFault(f *simFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

func (s *simulation) endFault(f *simFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.to = time.Now()
}

// endAway ends the names that wait for a user who no longer comes.
func (s *simulation) endAway() {
	for _, p := range s.upProcesses() {
		for _, u := range s.users {
			w, exists := p.broker.Lookup(u.name)
			isConnected := slices.ContainsFunc(s.ledger.sessions, func(session *simSession) bool { return session.writer == w })
			if exists && !isConnected {
				_ = w.CloseNow()
			}
		}
	}
}

// leave ends all sessions.
func (s *simulation) leave() {
	for _, session := range s.ledger.sessions {
		if session.writer != nil {
			session.conn.readAll()
			_ = session.writer.Close()
		}
	}
}

// shutDown ends all processes at once.
func (s *simulation) shutDown() {
	var ending sync.WaitGroup
	for _, p := range s.upProcesses() {
		ending.Go(func() {
			err := p.shutDown(s.relayOptions.Timeout)
			s.ledger.check(err == nil, "shutdown of %s: %v", p.id, err)
		})
	}
	s.wait("all have shut down", &ending)
	s.wait("all sessions have ended", &s.observers)
}

// report reports what was wrong.
func (s *simulation) report(t *testing.T) {
	if *simTrace {
		t.Log(strings.Join(s.ledger.trace, "\n"))
	}
	if len(s.ledger.faults) > 0 {
		t.Errorf("-run TestSimulation -simseed %d:\n%s", s.seed, strings.Join(s.ledger.faults, "\n"))
	}
}
