package directory

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/relay"
)

// The rules, as scripts about the name bob. Each line has what happens, a bar, and what observers see:
// where bob and the rooms x and y come and go, and whether bob is arriving somewhere.
func TestRules(t *testing.T) {
	for rule, script := range map[string]string{
		"observers see the net effect of what is announced together": `
			a: joined 1, in x, in y | +bob@a +x@a +y@a
			a: joined 2, in y       | -x@a
			a: joined 3, left 3     | -y@a -bob@a
			a: left 3, moved 4 a    |`,
		"the newest token is found, whatever is announced last": `
			a: joined 2, in x | +bob@a +x@a
			b: joined 3, in y | -x@a +y@b
			c: joined 1       |
			c: in x           |
			b: left 3         | -y@b +x@a
			a: left 2         |
			c: out x          | -x@c
			c: left 1         | -bob@c`,
		"a name that is here is found here": `
			a: joined 9, in x    | +bob@a +x@a
			here: joined 1, in x |
			a: out x             |
			a: left 9            |
			here: left 1         | -x@ -bob@`,
		"a name moves and keeps its rooms": `
			b:                |
			a: joined 1, in x | +bob@a +x@a
			a: moved 2 b      | arriving
			b: in y           | arriving
			b: joined 2, in y | -x@b +y@b`,
		"an older grant is late": `
			b:                 |
			a: joined 5        | +bob@a
			a: moved 7 b       | arriving
			b: joined 3        | arriving
			b: left 3          | arriving
			b: moved 5 a       | arriving
			c: joined 6        | arriving
			c: moved 7 a       | arriving
			b: left 7          | -bob@b`,
		"a newer grant counts": `
			b:                 |
			c:                 |
			a: joined 5        | +bob@a
			a: moved 7 b       | arriving
			b: moved 8 c       | arriving
			a: joined 9        |
			c: left 8          |
			b: joined 8        |
			b: moved 10 c      | arriving
			c: left 10         |
			a: left 9          | -bob@a`,
		"a newer move counts": `
			c:                 |
			d:                 |
			a: joined 1        | +bob@a
			b: joined 2        |
			b: moved 5 c       | arriving
			a: moved 6 d       | arriving
			d: left 6          | -bob@d`,
		"a name moves out of sight": `
			a: joined 5, in x  | +bob@a +x@a
			a: moved 6 unknown | -x@a ~bob@a`,
		"a name arrives here during a claim only": `
			a: joined 5        | +bob@a
			claim              |
			a: moved 6 here    | arriving
			end                | arriving
			here: left 0       | -bob@
			a: joined 7        | +bob@a
			a: moved 8 here    | ~bob@a`,
		"a name is here, whatever it was to be": `
			claim              |
			a: joined 5        | +bob@a
			a: moved 9 here    | arriving
			end                | arriving
			here: joined 7     |
			a: moved 10 here   |`,
		"nobody waits for ever": `
			b:                 |
			a: joined 5, in x  | +bob@a +x@a
			a: moved 7 b       | arriving
			expire 6           | arriving
			expire 7           | -x@b ~bob@b
			expire 7           |`,
		"a node is gone": `
			b:                 |
			a: joined 5        | +bob@a
			a: moved 7 b       | arriving
			a gone             | arriving
			b gone             | !bob@b`,
		"a snapshot is all there is": `
			a: joined 5, in x     | +bob@a +x@a
			a snapshot: joined 6  | -x@a
			a snapshot:           | -bob@a
			a snapshot: joined 7  | +bob@a`,
		"a snapshot may be older than a move": `
			b:                    |
			a: joined 5, in x     | +bob@a +x@a
			a: moved 7 b          | arriving
			b snapshot:           | arriving
			b snapshot: joined 6  | arriving
			b: joined 7, in x     |`,
	} {
		t.Run(rule, func(t *testing.T) {
			d := New()
			d.Self = "here"
			for line := range strings.Lines(strings.TrimSpace(script)) {
				step, want, _ := strings.Cut(line, "|")
				saw := play(d, strings.TrimSpace(step))
				if _, isArriving := d.Arrival("bob"); isArriving {
					saw = append(saw, "arriving")
				}
				require.Equal(t, strings.Fields(want), saw, line)
			}
		})
	}
}

// play takes a step of a script, and returns what observers see.
func play(d *Directory, step string) (saw []string) {
	saw = []string{}
	report := func(_ string, changes []Change) {
		for _, c := range changes {
			sign := map[relay.EventKind]string{
				relay.EventJoined: "+", relay.EventRoomJoined: "+", relay.EventRoomLeft: "-", relay.EventLeft: "-", relay.EventMoved: "~",
			}[c.Kind]
			if c.Cause != nil {
				sign = "!"
			}
			what := c.Name
			if c.Room != "" {
				what = c.Room
			}
			saw = append(saw, sign+what+"@"+c.Node)
		}
	}
	subject, announced, _ := strings.Cut(step, ":")
	words := strings.Fields(subject)
	switch {
	case words[0] == "claim":
		d.Claim("bob")
	case words[0] == "end":
		d.EndClaim("bob")
	case words[0] == "expire":
		report("bob", d.Expire("bob", number(words[1])))
	case len(words) == 2 && words[1] == "gone":
		d.Drop(words[0], errors.New("gone"), report)
	default:
		d.Apply(words[0], announcements(announced), len(words) == 2, report)
	}
	return saw
}

func announcements(list string) (events []relay.Event) {
	for item := range strings.SplitSeq(list, ",") {
		words := append(strings.Fields(item), "", "")
		e := relay.Event{Name: "bob"}
		switch words[0] {
		case "":
			continue
		case "joined":
			e.Kind, e.Token = relay.EventJoined, number(words[1])
		case "left":
			e.Kind, e.Token = relay.EventLeft, number(words[1])
		case "moved":
			e.Kind, e.Token, e.To = relay.EventMoved, number(words[1]), words[2]
		case "in":
			e.Kind, e.Room = relay.EventRoomJoined, words[1]
		case "out":
			e.Kind, e.Room = relay.EventRoomLeft, words[1]
		}
		events = append(events, e)
	}
	return events
}

func number(digits string) uint64 {
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// A node may be dropped while its announcements are being applied, and names may come while it is being
// dropped. In the end nothing of it is left.
func TestDropDuringApply(t *testing.T) {
	d := New()
	joined := []relay.Event{{Name: "bob", Token: 1}, {Name: "carol", Token: 1}}
	moved := relay.Event{Kind: relay.EventMoved, Name: "dave", Token: 2, To: "a"}
	ignore := func(string, []Change) {}
	d.Apply("b", []relay.Event{{Name: "dave", Token: 1}}, false, ignore)
	d.Apply("a", joined, false, func(string, []Change) {
		d.Drop("a", nil, func(name string, _ []Change) {
			d.Apply("b", []relay.Event{moved}, false, ignore)
		})
	})
	require.Empty(t, slices.Collect(d.Members(relay.Target{Kind: relay.TargetAll})))
	require.Equal(t, []string{"b"}, d.Nodes())
}
