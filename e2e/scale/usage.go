package scale

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (u Usage) String() string {
	return fmt.Sprintf("RSS %d MB (peak %d MB), heap %d MB, CPU %.1fs", u.RSS>>20, u.PeakRSS>>20, u.Heap>>20, u.CPU.Seconds())
}

// usage reads what the controller uses; collect runs a garbage collection first.
func (s *subject) usage(ctx context.Context, collect bool) (Usage, error) {
	var u Usage
	if collect {
		if _, err := fetch(ctx, s.profiles+"heap?gc=1"); err != nil {
			return u, fmt.Errorf("collect garbage: %w", err)
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.controller.PID()))
	if err != nil {
		return u, fmt.Errorf("read memory of controller: %w", err)
	}
	u.PeakRSS, u.RSS = kilobytes(text, "VmHWM:"), kilobytes(text, "VmRSS:")
	metrics, err := fetch(ctx, s.controller.MetricsURL)
	if err != nil {
		return u, fmt.Errorf("read metrics: %w", err)
	}
	u.Heap = int64(sample(metrics, "go_memstats_heap_alloc_bytes"))
	u.CPU = time.Duration(sample(metrics, "process_cpu_seconds_total") * float64(time.Second))
	return u, nil
}

// kilobytes reads a line of /proc/<pid>/status: "VmHWM:	   12345 kB".
func kilobytes(status []byte, name string) int64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, _ := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// sample reads a metric without labels.
func sample(metrics []byte, name string) float64 {
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, _ := strconv.ParseFloat(rest, 64)
			return v
		}
	}
	return 0
}

// written asks for the table that kubectl shows, which is the cheapest way to
// see a condition of many budgets.
func (s *subject) written(ctx context.Context) (string, error) {
	var table metav1.Table
	err := s.cluster.Client.CoreV1().RESTClient().Get().AbsPath("/apis/meshpdb.io/v1alpha1/meshpoddisruptionbudgets").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Param("includeObject", "None").Do(ctx).Into(&table)
	if err != nil {
		return "", err
	}
	column := -1
	for i, c := range table.ColumnDefinitions {
		if c.Name == "Enforced" {
			column = i
		}
	}
	enforced := 0
	for _, row := range table.Rows {
		if column >= 0 && column < len(row.Cells) && row.Cells[column] == "True" {
			enforced++
		}
	}
	if enforced != s.Budgets {
		return fmt.Sprintf("%d of %d budgets are enforced", enforced, s.Budgets), nil
	}
	return "", nil
}

// freeAddress is a loopback address with a port that is free now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}
