package recorded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Usage is what this process holds.
type Usage struct {
	// Heap and stacks, in bytes, after a collection.
	Memory     float64
	Goroutines int
	// Connections are open sockets.
	Connections int
}

// Less is what came on top of another usage.
func (u Usage) Less(before Usage) Usage {
	return Usage{u.Memory - before.Memory, u.Goroutines - before.Goroutines, u.Connections - before.Connections}
}

func usage() (Usage, error) {
	// Twice: the first collection only readies what pools hold to be freed.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	sockets, err := sockets()
	return Usage{Memory: float64(m.HeapAlloc + m.StackInuse), Goroutines: runtime.NumGoroutine(), Connections: sockets}, err
}

// sockets counts the open sockets of this process.
func sockets() (int, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("count connections: %w", err)
	}
	n := 0
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile, as the folder itself is
		} else if err != nil {
			return 0, fmt.Errorf("count connections: %w", err)
		}
		if strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n, nil
}
