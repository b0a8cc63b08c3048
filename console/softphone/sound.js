// Microphones and speakers: which there are, which was chosen, and how to get one.
const kept = { audioinput: 'microphone', audiooutput: 'speaker' };

// cleaned: the browser takes echo and noise out of the microphone's sound.
export const cleaned = () => localStorage.getItem('cleaned') !== 'no';
export const clean = (on) => localStorage.setItem('cleaned', on ? 'yes' : 'no');

function constraints(id) {
  const on = cleaned();
  return { audio: { deviceId: id ? { exact: id } : undefined, echoCancellation: on, noiseSuppression: on, autoGainControl: on } };
}

// listen opens the chosen microphone, or any when that is not there any more.
export async function listen() {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    throw new DOMException('not a secure context', 'SecurityError');
  }
  const id = localStorage.getItem(kept.audioinput);
  try {
    return await navigator.mediaDevices.getUserMedia(constraints(id));
  } catch (error) {
    if (id && (error.name === 'OverconstrainedError' || error.name === 'NotFoundError')) {
      return navigator.mediaDevices.getUserMedia(constraints(''));
    }
    throw error;
  }
}

// stop closes a microphone.
export function stop(stream) {
  for (const t of stream?.getTracks() || []) {
    t.stop();
  }
}

// fill lists the devices of a kind in a select element.
export async function fill(select, kind) {
  const all = (await navigator.mediaDevices?.enumerateDevices()) || [];
  const chosen = localStorage.getItem(kept[kind]) || '';
  const own = [new Option('system default', '')];
  for (const d of all.filter((x) => x.kind === kind && x.deviceId && x.deviceId !== 'default')) {
    own.push(new Option(d.label || `${kept[kind]} ${own.length}`, d.deviceId));
  }
  select.replaceChildren(...own);
  select.value = own.some((o) => o.value === chosen) ? chosen : '';
}

export function choose(kind, id) {
  localStorage.setItem(kept[kind], id);
}

// speakThrough sends what an audio element plays to the chosen speaker.
export async function speakThrough(audio) {
  const id = localStorage.getItem(kept.audiooutput) || '';
  await audio.setSinkId?.(id).catch(() => {}); // it has been unplugged: the system's own
}

export const canChooseSpeaker = 'setSinkId' in HTMLMediaElement.prototype;
