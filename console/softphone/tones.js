// The tones a phone makes by itself: it rings, and it says that the other rings.
let context = null;

const patterns = {
  incoming: { hz: [523, 659], on: 1.0, every: 3.0, loud: 0.12 },
  ringing: { hz: [425], on: 1.0, every: 5.0, loud: 0.05 },
};

// play repeats a pattern until the function it returns is called.
export function play(name) {
  const p = patterns[name];
  context ??= new AudioContext();
  context.resume().catch(() => {}); // without a click before, the browser keeps it silent
  let timer = 0;
  let playing = [];
  const once = () => {
    const at = context.currentTime;
    const gain = context.createGain();
    gain.gain.setValueAtTime(0, at);
    gain.gain.linearRampToValueAtTime(p.loud, at + 0.03);
    gain.gain.setValueAtTime(p.loud, at + p.on - 0.05);
    gain.gain.linearRampToValueAtTime(0, at + p.on);
    gain.connect(context.destination);
    playing = p.hz.map((hz) => {
      const o = context.createOscillator();
      o.frequency.value = hz;
      o.connect(gain);
      o.start(at);
      o.stop(at + p.on);
      return o;
    });
    timer = setTimeout(once, 1000 * p.every);
  };
  once();
  return () => {
    clearTimeout(timer);
    for (const o of playing) {
      o.disconnect();
    }
  };
}
