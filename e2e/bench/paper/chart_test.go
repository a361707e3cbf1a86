package paper

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"gonum.org/v1/plot"
)

func examples() []Chart {
	places := []string{"0 ms", "20 ms", "80 ms"}
	two := []Series{
		{Name: "p50 <of all>", Values: []float64{12, 34, 96.5}},
		{Name: "one round trip & one write", Values: []float64{2, 22, 82}, Dashed: true},
	}
	large := []Series{{Name: "grant", Values: []float64{0.2, 11, 1900}}, {Name: "refusal", Values: []float64{0.01, 0.05, 0.4}}}
	return []Chart{
		{Kind: Lines, Title: "Time of a grant", X: "round-trip time", Y: "milliseconds", Places: places, Series: two},
		{Kind: Lines, Title: "Time by clusters", X: "clusters", Y: "milliseconds", Places: places, Series: large, Log: true},
		{Kind: Bars, Title: "Grants per second", X: "round-trip time", Y: "grants per second", Places: places, Series: two},
		{Kind: Stacked, Title: "Steps", X: "round-trip time", Y: "milliseconds", Places: places, Series: two},
		{Kind: Bars, Title: "Nothing happened", X: "x", Y: "y", Places: places[:1], Series: []Series{{Name: "none", Values: []float64{0}}}},
	}
}

func TestChartsAreValidSVG(t *testing.T) {
	for _, c := range examples() {
		svg, err := c.SVG()
		if err != nil {
			t.Errorf("%s: %v", c.Title, err)
			continue
		}
		words := textOf(t, svg)
		for _, want := range append([]string{c.Title, c.X, c.Y, c.Series[0].Name}, c.Places...) {
			if !strings.Contains(words, want) {
				t.Errorf("%s: %q is not written in it", c.Title, want)
			}
		}
	}
}

// textOf decodes an SVG and returns all that is written in it.
func textOf(t *testing.T, svg []byte) string {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	var words []string
	root := ""
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("decode: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if root == "" {
				root = token.Name.Local
			}
		case xml.CharData:
			words = append(words, string(token))
		}
	}
	if root != "svg" {
		t.Errorf("the root is %q", root)
	}
	return strings.Join(words, "\n")
}

func TestChartsAreRefused(t *testing.T) {
	good := examples()[0]
	for name, c := range map[string]Chart{
		"it has no values":                   {Kind: Lines, Title: "t"},
		"kind 0 is unknown":                  {Title: "t", Places: good.Places, Series: good.Series},
		"series a has 1 values for 3 places": {Kind: Bars, Title: "t", Places: good.Places, Series: []Series{{Name: "a", Values: []float64{1}}}},
		"series a has the value 0":           {Kind: Lines, Log: true, Title: "t", Places: []string{"x"}, Series: []Series{{Name: "a", Values: []float64{0}}}},
		"series a has the value NaN":         {Kind: Bars, Title: "t", Places: []string{"x"}, Series: []Series{{Name: "a", Values: []float64{math.NaN()}}}},
		"series b has the value +Inf":        {Kind: Bars, Title: "t", Places: []string{"x"}, Series: []Series{{Name: "b", Values: []float64{math.Inf(1)}}}},
		"series minus has the value -1":      {Kind: Lines, Log: true, Title: "t", Places: []string{"x"}, Series: []Series{{Name: "minus", Values: []float64{-1}}}},
	} {
		if _, err := c.SVG(); err == nil || err.Error() != `draw "t": `+name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		marker    func(low, high float64) []plot.Tick
		low, high float64
		want      string
	}{
		{evenTicks, 0, 10, "0 2 4 6 8 10"},
		{evenTicks, 0, 1, "0.0 0.2 0.4 0.6 0.8 1.0"},
		{evenTicks, 0, 163, "0 50 100 150"},
		{evenTicks, 0, 30000, "0 5,000 10,000 15,000 20,000 25,000 30,000"},
		{decades, 0.3, 2000, "1 10 100 1,000"},
		{decades, 0.03, 2, "0.05 0.1 0.2 0.5 1 2"},
	} {
		var got []string
		for _, tick := range tt.marker(tt.low, tt.high) {
			got = append(got, tick.Label)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%g to %g: got %q, want %q", tt.low, tt.high, got, tt.want)
		}
	}
}
