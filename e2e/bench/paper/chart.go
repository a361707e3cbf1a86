package paper

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Kind is how a Chart draws its series. The zero value is invalid.
type Kind uint8

const (
	// Lines joins the values of a series.
	Lines Kind = iota + 1
	// Bars sets the series side by side.
	Bars
	// Stacked sets them on top of each other.
	Stacked
)

// Chart is a picture of a few series over the same few places.
type Chart struct {
	Kind  Kind
	Title string
	// X and Y name the axes, with units.
	X, Y string
	// Places are the names along the X axis, at even distances.
	Places []string
	Series []Series
	// Log makes the Y axis logarithmic; values must be positive then. Lines only.
	Log bool
}

// Series is one value for each place.
type Series struct {
	Name   string
	Values []float64
	// Dashed marks what is there to compare with. Lines only.
	Dashed bool
}

// The size of a chart, and of the writing in it.
const (
	width     = 16 * vg.Centimeter
	height    = 9 * vg.Centimeter
	margin    = vg.Length(6)
	titleSize = vg.Length(12)
	labelSize = vg.Length(10)
	tickSize  = vg.Length(9)
	barSpace  = 3.2 * vg.Centimeter // for the bars of one place
)

// palette is Okabe and Ito's, which people who see fewer colours can tell apart.
func palette(i int) color.Color {
	colours := []color.RGBA{
		{0, 114, 178, 255}, {230, 159, 0, 255}, {0, 158, 115, 255}, {213, 94, 0, 255},
		{204, 121, 167, 255}, {86, 180, 233, 255}, {240, 228, 66, 255}, {110, 110, 110, 255},
	}
	return colours[i%len(colours)]
}

// SVG draws the chart.
func (c Chart) SVG() ([]byte, error) {
	p, err := c.plot()
	if err != nil {
		return nil, fmt.Errorf("draw %q: %w", c.Title, err)
	}
	canvas := vgsvg.New(width, height)
	p.Draw(draw.Crop(draw.New(canvas), margin, -margin, margin, -margin))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, fmt.Errorf("draw %q: %w", c.Title, err)
	}
	// The letters of these are as wide, so nothing moves where the first is missing.
	return bytes.ReplaceAll(svg.Bytes(), []byte("Liberation Sans"), []byte("Liberation Sans, Arial, Helvetica, sans-serif")), nil
}

func (c Chart) check() error {
	if len(c.Series) == 0 || len(c.Places) == 0 {
		return errors.New("it has no values")
	}
	for _, s := range c.Series {
		if len(s.Values) != len(c.Places) {
			return fmt.Errorf("series %s has %d values for %d places", s.Name, len(s.Values), len(c.Places))
		}
		for _, v := range s.Values {
			if math.IsNaN(v) || math.IsInf(v, 0) || c.Log && v <= 0 {
				return fmt.Errorf("series %s has the value %v", s.Name, v)
			}
		}
	}
	return nil
}

func (c Chart) plot() (*plot.Plot, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	p := plot.New()
	c.dress(p)
	var err error
	switch c.Kind {
	case Lines:
		err = c.lines(p)
	case Bars, Stacked:
		err = c.bars(p)
	default:
		err = fmt.Errorf("kind %d is unknown", c.Kind)
	}
	if err != nil {
		return nil, err
	}
	p.NominalX(c.Places...)
	c.scale(p)
	return p, nil
}

// dress gives the chart its writing.
func (c Chart) dress(p *plot.Plot) {
	for _, style := range []struct {
		text *text.Style
		size vg.Length
	}{
		{&p.Title.TextStyle, titleSize},
		{&p.X.Label.TextStyle, labelSize}, {&p.Y.Label.TextStyle, labelSize}, {&p.Legend.TextStyle, tickSize},
		{&p.X.Tick.Label, tickSize}, {&p.Y.Tick.Label, tickSize},
	} {
		style.text.Font.Variant, style.text.Font.Size = "Sans", style.size
	}
	p.Title.Text, p.Title.Padding = c.Title, vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = c.X, c.Y
	p.X.Label.Padding, p.Y.Label.Padding = vg.Points(4), vg.Points(4)
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(3)
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), -vg.Points(4)
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	grid.Horizontal.Color = color.Gray{Y: 220}
	p.Add(grid)
}

// scale leaves room for the legend above the values.
func (c Chart) scale(p *plot.Plot) {
	low, high := c.limits()
	// One line of the legend takes about a fifteenth of the height.
	share := 1 - min(0.55, 0.04+float64(len(c.Series))/15)
	p.X.Min, p.X.Max = -0.5, float64(len(c.Places))-0.5
	if !c.Log {
		p.Y.Min, p.Y.Max = 0, high/share
		p.Y.Tick.Marker = plot.TickerFunc(evenTicks)
		return
	}
	low, high = math.Log10(low)-0.1, math.Log10(high)
	p.Y.Min, p.Y.Max = math.Pow(10, low), math.Pow(10, low+(high-low)/share)
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.TickerFunc(decades)
}

func (c Chart) limits() (low, high float64) {
	low = math.Inf(1)
	sums := make([]float64, len(c.Places))
	for _, s := range c.Series {
		for i, v := range s.Values {
			low = min(low, v)
			sums[i] += v
			if c.Kind != Stacked {
				high = max(high, v)
			}
		}
	}
	if c.Kind == Stacked {
		high = slices.Max(sums)
	}
	if high == 0 {
		high = 1
	}
	return low, high
}

// evenTicks are about five round values.
func evenTicks(low, high float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if (high-low)/(step*factor) <= 6 {
			step *= factor
			break
		}
	}
	var ticks []plot.Tick
	for i := math.Ceil(low / step); i*step <= high; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: round(i*step, step)})
	}
	return ticks
}

// decades are the powers of ten, and 2 and 5 times them if there are few.
func decades(low, high float64) []plot.Tick {
	factors := []float64{1}
	if math.Log10(high/low) < 3 {
		factors = []float64{1, 2, 5}
	}
	var ticks []plot.Tick
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, f := range factors {
			if v := f * math.Pow(10, e); v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: round(v, v)})
			}
		}
	}
	return ticks
}

// round writes a tick with the digits that its step needs.
func round(value, step float64) string {
	decimals := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	return grouped(fmt.Sprintf("%.*f", decimals, value))
}

func (c Chart) lines(p *plot.Plot) error {
	for i, s := range c.Series {
		points := make(plotter.XYs, len(s.Values))
		for x, y := range s.Values {
			points[x] = plotter.XY{X: float64(x), Y: y}
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, line.Width = palette(i), vg.Points(1.5)
		dots.Color, dots.Shape, dots.Radius = palette(i), draw.CircleGlyph{}, vg.Points(2.5)
		if s.Dashed {
			line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		}
		p.Add(line, dots)
		p.Legend.Add(s.Name, line, dots)
	}
	return nil
}

func (c Chart) bars(p *plot.Plot) error {
	side := 1
	if c.Kind == Bars {
		side = len(c.Series)
	}
	space := min(barSpace, 0.7*width/vg.Length(len(c.Places)))
	each := min(space/vg.Length(side), 1.6*vg.Centimeter)
	var below *plotter.BarChart
	for i, s := range c.Series {
		bars, err := plotter.NewBarChart(plotter.Values(s.Values), each)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = palette(i), 0
		if c.Kind == Stacked && below != nil {
			bars.StackOn(below)
		}
		if c.Kind == Bars {
			bars.Offset = each * (vg.Length(i) - vg.Length(side-1)/2)
		}
		below = bars
		p.Add(bars)
		p.Legend.Add(s.Name, bars)
	}
	return nil
}
