// Which releases of the switch a call has been on, as the switch tells who holds
// the call's tag.

const every = 2000; // ms

// follow asks until the call has ended; tell gets the line, or '' for none.
export function follow(call, tell) {
  const ask = async () => {
    const over = call.phase === 'ended'; // this is the last time
    if (call.tag) {
      try {
        const answer = await fetch(`calls/${encodeURIComponent(call.tag)}/releases`, { cache: 'no-store' });
        if (answer.ok) {
          tell(sentence((await answer.json()).releases));
        }
      } catch {
        // the switch's page is away for a moment: the line stays as it is
      }
    }
    if (!over) {
      setTimeout(ask, call.tag ? every : every / 4);
    }
  };
  ask();
}

// sentence is the line for [{release, freeze_ms}].
export function sentence(releases) {
  if (!releases?.length) {
    return '';
  }
  const names = releases.map((r) => r.release);
  const moves = releases.length - 1;
  let line = `this call has been on ${moves ? 'releases' : 'release'} ${names.join(' → ')}`;
  const freeze = Math.max(...releases.map((r) => r.freeze_ms || 0));
  if (moves && freeze) {
    line += ` (its logic paused ${freeze.toFixed(1)} ms at most)`;
  }
  return line;
}
