package live

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// processor is how long all cores of the machine have been busy and idle since
// it started, in ticks.
type processor struct{ busy, idle uint64 }

func readProcessor() (processor, error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return processor{}, fmt.Errorf("read use of the cores: %w", err)
	}
	return parseProcessor(string(content))
}

// parseProcessor reads the first line of /proc/stat: "cpu user nice system
// idle iowait irq softirq steal ...", of which guest times are in user already.
func parseProcessor(text string) (processor, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return processor{}, fmt.Errorf("read use of the cores: unexpected line %q", line)
	}
	var p processor
	for i, field := range fields[1:9] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return processor{}, fmt.Errorf("read use of the cores: %w", err)
		}
		if i == 3 || i == 4 {
			p.idle += ticks
		} else {
			p.busy += ticks
		}
	}
	return p, nil
}

// since is the share of the time from before to p in which cores were busy.
func (p processor) since(before processor) float64 {
	busy, idle := p.busy-before.busy, p.idle-before.idle
	if busy+idle == 0 {
		return 0
	}
	return float64(busy) / float64(busy+idle)
}
