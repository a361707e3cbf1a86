package paper

import (
	"testing"
	"time"
)

func TestDocument(t *testing.T) {
	var d Document
	d.Heading(1, "What it costs")
	d.Say("Measured on %d cores.", 2)
	table := Table{Columns: []string{"clusters", "p50", "p99"}}
	table.Row("3", "1.20 ms", "2 ms")
	table.Row("255", "112 µs")
	table.Row("a|b", "10,000", "")
	d.Table(table)
	d.Show("performance-x.svg", "Time by clusters")
	const want = `# What it costs

Measured on 2 cores.

| clusters |     p50 |  p99 |
|----------|--------:|-----:|
| 3        | 1.20 ms | 2 ms |
| 255      |  112 µs |      |
| a\|b     |  10,000 |      |

![Time by clusters](performance-x.svg)
`
	if got := d.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTableOfWords(t *testing.T) {
	table := Table{Words: 2, Columns: []string{"step", "what", "time"}}
	table.Row("A", "write it down", "1 ms")
	const want = `| step | what          | time |
|------|---------------|-----:|
| A    | write it down | 1 ms |
`
	if got := table.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNumber(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 1: "1.00", 0.5: "0.500", 12.34: "12.3", 99.96: "100.0", 123.4: "123", 1234.5: "1,234", 1234567: "1,234,567",
		0.0123: "0.0123", 0.00001: "0.0000", -1234: "-1,234", -0.25: "-0.250",
	} {
		if got := Number(value); got != want {
			t.Errorf("%v: got %s, want %s", value, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", 750: "750 ns", 1500: "1.50 µs", 25 * time.Millisecond: "25.0 ms", 123456 * time.Microsecond: "123 ms",
		2500 * time.Millisecond: "2.50 s", 90 * time.Second: "90.0 s", -time.Millisecond: "-1.00 ms",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[float64]string{0: "0 B", 512: "512 B", 2048: "2.00 KiB", 5 << 20: "5.00 MiB", 3 << 40: "3,072 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%v: got %s, want %s", n, got, want)
		}
	}
}
