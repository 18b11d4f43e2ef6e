// In a page with the pictures in frames: what a viewer could not read, a line each, in the element `faults`.
// A text is inside the picture, inside the rectangle in which it begins, over no other text, and in a colour that stands
// out from what is behind it (WCAG 2: a contrast of at least 4.5).

const colour = (text) => (text.match(/[0-9.]+/g) || [0, 0, 0]).map(Number);
const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
};
const within = (inner, outer, margin) =>
    inner.left >= outer.left + margin && inner.right <= outer.right - margin &&
    inner.top >= outer.top + margin && inner.bottom <= outer.bottom - margin;
const overlap = (a, b) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;

function faults(name, picture, page) {
    const found = [];
    const whole = picture.getBoundingClientRect();
    const rectangles = [...picture.querySelectorAll("rect")].map((element) => ({ element, area: element.getBoundingClientRect() }));
    const texts = [...picture.querySelectorAll("text")].map((element) => ({
        element,
        words: element.textContent.trim(),
        area: element.getBoundingClientRect(),
    }));
    if (!picture.querySelector("title")?.textContent.trim()) found.push("it has no title for who cannot see it");
    if (texts.length === 0) found.push("it has no text");
    for (const { element, words, area } of texts) {
        if (!within(area, whole, 0)) found.push(`"${words}" is cut off at the edge`);
        const middle = (area.top + area.bottom) / 2;
        const begins = ({ area: box }) => area.left >= box.left && area.left <= box.right && middle >= box.top && middle <= box.bottom;
        const boxes = rectangles.filter(begins).sort((a, b) => a.area.width * a.area.height - b.area.width * b.area.height);
        const box = boxes[0];
        if (box && !within(area, box.area, 1)) found.push(`"${words}" does not fit its box`);
        const across = rectangles.find((other) => !begins(other) && overlap(area, other.area));
        if (across) found.push(`"${words}" runs into another box`);
        const behind = box ? getComputedStyle(box.element).fill : page;
        const ratio = contrast(colour(getComputedStyle(element).fill), colour(behind));
        if (ratio < 4.5) found.push(`"${words}" has a contrast of ${ratio.toFixed(1)}`);
    }
    texts.forEach((one, index) => texts.slice(index + 1).forEach((other) => {
        if (overlap(one.area, other.area)) found.push(`"${one.words}" is over "${other.words}"`);
    }));
    return found.map((fault) => `${name}: ${fault}`);
}

addEventListener("load", () => {
    const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    const page = isDark ? "rgb(13, 17, 23)" : "rgb(255, 255, 255)";
    const frames = [...document.querySelectorAll("iframe")];
    const found = frames.flatMap((frame) => faults(frame.title, frame.contentDocument.querySelector("svg"), page));
    const list = document.createElement("pre");
    list.id = "faults";
    list.textContent = `${isDark ? "dark" : "light"}, ${frames.length} pictures\n${found.join("\n")}\n`;
    document.body.replaceChildren(list);
});
